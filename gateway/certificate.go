package gateway

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
)

// readPair makes a certificate of the texts of its two files. Errors name the key of the
// configuration and the file, and what to do: crypto/tls knows neither, and says "tls: failed to
// find any PEM data" of a file in another form.
func readPair(c config.TLS, cert, key []byte) (tls.Certificate, error) {
	inCert, inKey := fmt.Sprintf("tls.certFile: %s", c.CertFile), fmt.Sprintf("tls.keyFile: %s", c.KeyFile)
	chain, err := readChain(cert)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: %w", inCert, err)
	}
	if err := readableKey(key); err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: %w", inKey, err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err == nil {
		return pair, nil
	}
	// The key is for some certificate of the chain, or for none.
	for i, other := range chain[1:] {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Raw})
		if _, err := tls.X509KeyPair(text, key); err == nil {
			return tls.Certificate{}, fmt.Errorf("%s: the chain is in the wrong order: the key belongs to certificate %d of %d; put "+
				"that one first, "+
				"then each certificate's issuer", inCert, i+2, len(chain))
		}
	}
	if publicKind(chain[0]) == "" {
		return tls.Certificate{}, fmt.Errorf("%s: its key is of a kind that TLS does not know; use RSA, ECDSA or Ed25519", inCert)
	}
	if strings.Contains(err.Error(), "does not match") {
		return tls.Certificate{}, fmt.Errorf("%s: the key does not belong to the certificate in %s; take both files from the same place",
			inKey, c.CertFile)
	}
	return tls.Certificate{}, fmt.Errorf("%s: the key cannot be read: %w; write it anew with openssl pkey", inKey, err)
}

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
	case slices.ContainsFunc(types, isKeyType):
		return nil, errors.New("it holds a private key and no certificate: are certFile and keyFile swapped?")
	case slices.Contains(types, "CERTIFICATE REQUEST"):
		return nil, errors.New("it holds a request for a certificate; the authority gives the certificate itself")
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
	leaf := t.leaf()
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("tls.certFile: %s: the certificate has expired on %s; renew it", t.config.CertFile,
			leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("tls.certFile: %s: the certificate is not valid before %s; look at this machine's clock, or use another "+
			"certificate", t.config.CertFile, leaf.NotBefore.UTC().Format(time.RFC3339))
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
