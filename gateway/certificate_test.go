package gateway

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
)

// entity is a key with a certificate.
type entity struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// issue makes an entity; without an issuer it signs itself.
func issue(t *testing.T, name string, issuer *entity, change func(*x509.Certificate)) *entity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: issuer == nil,
	}
	if change != nil {
		change(template)
	}
	parent, signer := template, crypto.Signer(key)
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &entity{key, cert}
}

// certs is a PEM file of certificates.
func certs(of ...*entity) []byte {
	var b bytes.Buffer
	for _, e := range of {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: e.cert.Raw})
	}
	return b.Bytes()
}

// private is a PEM file of a private key.
func (e *entity) private(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(e.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func block(kind string, headers map[string]string) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Headers: headers, Bytes: []byte("0")})
}

func TestErrorsOfCertificatesSayWhatToDo(t *testing.T) {
	root := issue(t, "root", nil, nil)
	leaf, other := issue(t, "leaf", root, nil), issue(t, "other", root, nil)
	good, key := certs(leaf, root), leaf.private(t)
	for _, test := range []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"in order", good, key, ""},
		{"text around", append([]byte("subject=leaf\n"), good...), key, ""},
		{"wrong order", certs(root, leaf), key,
			"tls.certFile: CERT: the chain is in the wrong order: the key belongs to certificate 2 of 2; put that one first"},
		{"another's key", good, other.private(t), "tls.keyFile: KEY: the key does not belong to the certificate in CERT; "},
		{"swapped", key, good, "tls.certFile: CERT: it holds a private key and no certificate: are certFile and keyFile swapped?"},
		{"certificate twice", good, good, "tls.keyFile: KEY: it holds a certificate and no private key: are certFile and keyFile swapped?"},
		{"PKCS #8 with a password", good, block("ENCRYPTED PRIVATE KEY", nil),
			"tls.keyFile: KEY: the key is encrypted, and the gateway asks for no password; decrypt it: openssl pkey"},
		{"PKCS #1 with a password", good, block("RSA PRIVATE KEY", map[string]string{"Proc-Type": "4,ENCRYPTED"}),
			"tls.keyFile: KEY: the key is encrypted"},
		{"public key", good, block("PUBLIC KEY", nil), "tls.keyFile: KEY: it holds a public key; the private one is needed"},
		{"key of SSH", good, block("OPENSSH PRIVATE KEY", nil),
			"tls.keyFile: KEY: it holds no private key in PEM form: it is a key of SSH; convert it"},
		{"broken key", good, block("PRIVATE KEY", nil), "tls.keyFile: KEY: the key cannot be read: "},
		{"request", block("CERTIFICATE REQUEST", nil), key, "tls.certFile: CERT: it holds a request for a certificate; "},
		{"request of Windows", block("NEW CERTIFICATE REQUEST", nil), key, "tls.certFile: CERT: it holds a request for a certificate; "},
		{"request for key", good, block("CERTIFICATE REQUEST", nil), "tls.keyFile: KEY: it holds a request for a certificate and"},
		{"revocations", block("X509 CRL", nil), key, "tls.certFile: CERT: it holds no certificate but a block \"X509 CRL\""},
		{"broken certificate", block("CERTIFICATE", nil), key, "tls.certFile: CERT: certificate 1 cannot be read: "},
		{"DER", leaf.cert.Raw, key, "tls.certFile: CERT: it holds no certificate in PEM form: it seems to be DER or PKCS #12; convert " +
			"it with openssl x509 -inform der"},
		{"DER key", good, []byte("0x"), "tls.keyFile: KEY: it holds no private key in PEM form: it seems to be DER or PKCS #12; convert " +
			"it with openssl pkey -inform der"},
		{"empty", nil, key, "tls.certFile: CERT: it holds no certificate in PEM form: it is empty"},
		{"text", []byte("hello"), key, `tls.certFile: CERT: it holds no certificate in PEM form: PEM begins with "-----BEGIN"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := readPair(&file{"tls.certFile", "CERT", test.cert}, &file{"tls.keyFile", "KEY", test.key})
			if got := ""; err != nil {
				got = err.Error()
				if test.want == "" || !strings.HasPrefix(got, test.want) {
					t.Errorf("got  %s\nwant %s", got, test.want)
				}
			} else if test.want != "" {
				t.Errorf("no error, want %s", test.want)
			}
		})
	}
}

func TestMessagesForAuthorities(t *testing.T) {
	block := func(kind string) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte("0")}) }
	for want, text := range map[string][]byte{
		"it holds a private key and no certificate":                                        block("EC PRIVATE KEY"),
		"it holds a private key and no certificate ":                                       block("ENCRYPTED PRIVATE KEY"),
		"it holds a request for a certificate; the authority gives the certificate itself": block("CERTIFICATE REQUEST"),
		"it holds no certificate but a block \"PUBLIC KEY\"":                               block("PUBLIC KEY"),
		"certificate 1 cannot be read: x509: malformed certificate":                        block("CERTIFICATE"),
		"it holds no certificate in PEM form: PEM begins with \"-----BEGIN\"":              []byte("hello"),
	} {
		_, err := readAuthorities(&file{"caFile", "CA", text})
		if err == nil || err.Error() != "caFile: CA: "+strings.TrimSpace(want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// certificatesOf are those of a chain in files.
func certificatesOf(t *testing.T, chain ...*entity) *certificates {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "tls.crt"), certs(chain...))
	writeFile(t, filepath.Join(dir, "tls.key"), chain[0].private(t))
	c, err := newCertificates(pairIn(dir))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificateOutOfItsTimeIsAFault(t *testing.T) {
	c := certificatesOf(t, issue(t, "a", nil, nil))
	for _, test := range []struct {
		at   time.Duration
		want string
	}{{0, ""}, {2 * time.Hour, "the certificate has expired on "}, {-2 * time.Hour, "the certificate is not valid before "}} {
		err := c.fault(time.Now().Add(test.at))
		if (err == nil) != (test.want == "") || err != nil &&
			(!strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "tls.certFile: /")) {
			t.Errorf("%v: %v", test.at, err)
		}
	}
}

func TestRemarksOnACertificate(t *testing.T) {
	named := func(c *x509.Certificate) { c.DNSNames = []string{"a.example.com", "*.b.example.com"} }
	root := issue(t, "root", nil, nil)
	middle := issue(t, "middle", root, func(c *x509.Certificate) { c.IsCA = true })
	leaf, bare := issue(t, "leaf", middle, named), issue(t, "c.example.com", nil, nil)
	routes := func(hosts ...string) (r config.Routes) {
		for _, host := range hosts {
			r = append(r, config.Route{Host: host})
		}
		return r
	}
	for _, test := range []struct {
		name   string
		chain  []*entity
		routes config.Routes
		want   []string
	}{
		{"covered", []*entity{leaf, middle, root}, routes("", "A.example.com", "*.b.example.com", "x.b.example.com"), nil},
		{"not covered", []*entity{leaf, middle}, routes("", "c.example.com", "*.example.com", "b.example.com"), []string{
			"does not cover c.example.com, the host of routes[1]; it is for a.example.com, *.b.example.com",
			"does not cover *.example.com, the host of routes[2]", "does not cover b.example.com, the host of routes[3]",
		}},
		{"no names", []*entity{bare}, routes("c.example.com"), []string{"it is for no name at all; its common name does not count"}},
		{"chain", []*entity{leaf, root, middle}, nil,
			[]string{"the chain is in the wrong order: certificate 1 is not issued by the next one"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			notes := certificatesOf(t, test.chain...).remarks(test.routes)
			if len(notes) != len(test.want) {
				t.Fatalf("%q", notes)
			}
			for i, want := range test.want {
				if !strings.Contains(notes[i], want) {
					t.Errorf("got  %s\nwant %s", notes[i], want)
				}
			}
		})
	}
}
