package e2e

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/internal/selfsigned"
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
	now := time.Now()
	cert, key, err := selfsigned.New(now.UnixNano(), now.Add(time.Hour), name)
	if err != nil {
		t.Fatal(err)
	}
	c.pool = x509.NewCertPool()
	c.pool.AppendCertsFromPEM(cert)
	c.certFile, c.keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, text := range map[string][]byte{c.certFile: cert, c.keyFile: key} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// settings is the tls block that uses the certificate.
func (c *certificate) settings() settings {
	return settings{"certFile": c.certFile, "keyFile": c.keyFile}
}
