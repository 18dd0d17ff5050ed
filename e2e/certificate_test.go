package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// certificate is a self-signed one for localhost, in files.
type certificate struct {
	pool              *x509.CertPool
	certFile, keyFile string
}

func newCertificate(t *testing.T) *certificate {
	t.Helper()
	c := &certificate{}
	c.write(t, t.TempDir(), "localhost")
	return c
}

// write makes a certificate for a name and puts it into dir.
func (c *certificate) write(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c.pool = x509.NewCertPool()
	c.certFile, c.keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, block := range map[string]*pem.Block{c.certFile: {Type: "CERTIFICATE", Bytes: cert},
		c.keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		text := pem.EncodeToMemory(block)
		if block.Type == "CERTIFICATE" {
			c.pool.AppendCertsFromPEM(text)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// settings is the tls block that uses the certificate.
func (c *certificate) settings() settings {
	return settings{"certFile": c.certFile, "keyFile": c.keyFile}
}
