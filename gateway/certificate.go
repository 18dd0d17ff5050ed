package gateway

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
)

// file is a file that a key of the configuration names.
type file struct {
	key, name string
	text      []byte
}

// read reads the file, if there is a name.
func (f *file) read() (err error) {
	if f.name == "" {
		return nil
	}
	if f.text, err = os.ReadFile(f.name); err != nil {
		return fmt.Errorf("%s: %w", f.key, err)
	}
	return nil
}

// unreadable makes a config.Problem of an error of read.
func (f *file) unreadable(err error) config.Problem {
	return config.Problem{Key: f.key, Text: errors.Unwrap(err).Error(), Hint: "name a PEM file that the gateway may read"}
}

// fault makes a config.Problem of what is wrong with the text, which may end with what to do.
func (f *file) fault(format string, a ...any) error {
	text, hint, _ := strings.Cut(fmt.Errorf(format, a...).Error(), "; ")
	return config.Problem{Key: f.key, Text: f.name + ": " + text, Hint: hint}
}

// sumOfFiles returns a sum over the texts.
func sumOfFiles(files ...*file) [sha256.Size]byte {
	var texts [][]byte
	for _, f := range files {
		texts = append(texts, f.text)
	}
	return sha256.Sum256(bytes.Join(texts, []byte{0}))
}

// readAuthorities returns the authorities of a PEM file. The error is a config.Problem.
func readAuthorities(f *file) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if pool.AppendCertsFromPEM(f.text) {
		return pool, nil
	}
	if _, err := readChain(f.text); err != nil {
		return nil, f.fault("%w", err)
	}
	return nil, f.fault("its certificates have headers inside their blocks; take the PEM form without them")
}

// readPair makes a certificate of its two files. The error is a config.Problem: it names the key
// of the configuration and the file, and what to do. crypto/tls knows neither, and says "tls:
// failed to find any PEM data" of a file in another form.
func readPair(cert, key *file) (tls.Certificate, error) {
	chain, err := readChain(cert.text)
	switch {
	case errors.Is(err, errKey):
		return tls.Certificate{}, cert.fault("%w: are certFile and keyFile swapped?", err)
	case err != nil:
		return tls.Certificate{}, cert.fault("%w", err)
	}
	if err := readableKey(key.text); err != nil {
		return tls.Certificate{}, key.fault("%w", err)
	}
	pair, err := tls.X509KeyPair(cert.text, key.text)
	if err == nil {
		return pair, nil
	}
	// The key is for some certificate of the chain, or for none.
	for i, other := range chain[1:] {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Raw})
		if _, err := tls.X509KeyPair(text, key.text); err == nil {
			return tls.Certificate{}, cert.fault("the chain is in the wrong order: the key belongs to certificate %d of %d; put that "+
				"one first, then each certificate's issuer", i+2, len(chain))
		}
	}
	if publicKind(chain[0]) == "" {
		return tls.Certificate{}, cert.fault("its key is of a kind that TLS does not know; use RSA, ECDSA or Ed25519")
	}
	if strings.Contains(err.Error(), "does not match") {
		return tls.Certificate{}, key.fault("the key does not belong to the certificate in %s; take both files from the same place",
			cert.name)
	}
	return tls.Certificate{}, key.fault("the key cannot be read: %w; write it anew with openssl pkey", err)
}

var errKey = errors.New("it holds a private key and no certificate")

// readChain reads all certificates of a PEM file, of which there must be one.
func readChain(text []byte) (chain []*x509.Certificate, err error) {
	types, blocks := blocksOf(text)
	for i, b := range blocks {
		if b.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be read: %w", i+1, err)
		}
		chain = append(chain, cert)
	}
	switch {
	case len(chain) > 0:
		return chain, nil
	case slices.ContainsFunc(types, func(t string) bool { return strings.HasSuffix(t, "PRIVATE KEY") }):
		return nil, errKey
	case slices.ContainsFunc(types, isRequestType):
		return nil, errors.New("it holds a request for a certificate; the authority gives the certificate itself")
	case len(types) > 0:
		return nil, fmt.Errorf("it holds no certificate but a block %q", types[0])
	}
	return nil, errors.New("it holds no certificate in PEM form" + otherForm(text, "openssl x509 -inform der"))
}

// readableKey returns why no private key can be read from a PEM file, nil if there is one.
func readableKey(text []byte) error {
	types, blocks := blocksOf(text)
	for _, b := range blocks {
		if b.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED") {
			return errors.New("the key is encrypted, and the gateway asks for no password; decrypt it: openssl pkey -in key.pem -out " +
				"plain.pem")
		}
	}
	switch {
	case slices.ContainsFunc(types, isKeyType):
		return nil
	case slices.Contains(types, "CERTIFICATE"):
		return errors.New("it holds a certificate and no private key: are certFile and keyFile swapped?")
	case slices.Contains(types, "PUBLIC KEY"):
		return errors.New("it holds a public key; the private one is needed")
	case slices.ContainsFunc(types, isRequestType):
		return errors.New("it holds a request for a certificate and no private key")
	}
	return errors.New("it holds no private key in PEM form" + otherForm(text, "openssl pkey -inform der"))
}

// blocksOf returns the PEM blocks of a text, and their types.
func blocksOf(text []byte) (types []string, blocks []*pem.Block) {
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return types, blocks
		}
		types, blocks = append(types, b.Type), append(blocks, b)
	}
}

func isKeyType(t string) bool {
	return t == "PRIVATE KEY" || strings.HasSuffix(t, " PRIVATE KEY") && t != "ENCRYPTED PRIVATE KEY" && t != "OPENSSH PRIVATE KEY"
}

func isRequestType(t string) bool {
	return t == "CERTIFICATE REQUEST" || t == "NEW CERTIFICATE REQUEST"
}

// otherForm says of a text without PEM what it may be.
func otherForm(text []byte, convert string) string {
	switch {
	case len(text) == 0:
		return ": it is empty"
	case text[0] == 0x30: // ASN.1 SEQUENCE
		return ": it seems to be DER or PKCS #12; convert it with " + convert + " or openssl pkcs12"
	case strings.Contains(string(text), "OPENSSH PRIVATE KEY"):
		return ": it is a key of SSH; convert it with ssh-keygen -p -m pem"
	}
	return `: PEM begins with "-----BEGIN"`
}

// publicKind names the kind of a certificate's key, "" if TLS does not know it.
func publicKind(c *x509.Certificate) string {
	switch c.PublicKey.(type) {
	case *rsa.PublicKey:
		return "RSA"
	case *ecdsa.PublicKey:
		return "ECDSA"
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return ""
}

// fault returns what keeps clients from trusting the current certificate at a time, whatever
// they trust: it has expired, or is not valid yet. A gateway serves with it all the same, as a
// clock may be wrong and some clients do not look.
func (t *certificates) fault(now time.Time) error {
	return outOfTime(&file{key: "tls.certFile", name: t.config.CertFile}, t.leaf(), now)
}

// outOfTime returns why the certificate of a file is not valid at a time, nil if it is. The error
// is a config.Problem.
func outOfTime(f *file, leaf *x509.Certificate, now time.Time) error {
	switch {
	case now.After(leaf.NotAfter):
		return f.fault("the certificate has expired on %s; renew it", leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return f.fault("the certificate is not valid before %s; look at this machine's clock, or use another certificate",
			leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// remarks are what an operator should know of the current certificate: hosts of routes that it
// does not cover, and an order of the chain that not every client puts right.
func (t *certificates) remarks(routes config.Routes) (notes []string) {
	leaf := t.leaf()
	for i, r := range routes {
		host := strings.ToLower(r.Host)
		if rest, ok := strings.CutPrefix(host, "*."); ok {
			host = "any." + rest
		}
		if host != "" && leaf.VerifyHostname(host) != nil {
			notes = append(notes, fmt.Sprintf("tls.certFile: %s: the certificate does not cover %s, the host of routes[%d]; it is for %s",
				t.config.CertFile, r.Host, i, namesOf(leaf)))
		}
	}
	chain := t.current.Load().Certificates[0].Certificate
	for i := 0; i+1 < len(chain); i++ {
		cert, err := x509.ParseCertificate(chain[i])
		issuer, ierr := x509.ParseCertificate(chain[i+1])
		if err == nil && ierr == nil && string(cert.RawIssuer) != string(issuer.RawSubject) {
			notes = append(notes, fmt.Sprintf("tls.certFile: %s: the chain is in the wrong order: certificate %d is not issued by the "+
				"next one; "+
				"not every client puts that right", t.config.CertFile, i+1))
			break
		}
	}
	return notes
}

// namesOf are the names and addresses that a certificate is for.
func namesOf(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name at all; its common name does not count"
	}
	return strings.Join(names, ", ")
}

// leaf is the current certificate itself, without its chain.
func (t *certificates) leaf() *x509.Certificate { return t.current.Load().Certificates[0].Leaf }
