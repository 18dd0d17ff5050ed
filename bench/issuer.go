//go:build linux

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
)

// issuer signs tokens and publishes its key at url/keys. RS256 is what most issuers use.
type issuer struct {
	url    string
	signer *auth.Signer
	made   int
}

// newIssuer serves until the process ends. The public key is also put into dir, for a proxy that
// reads no key set.
func newIssuer(dir string) (*issuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	if err := writePEM(filepath.Join(dir, "issuer.pub"), &pem.Block{Type: "PUBLIC KEY", Bytes: public}); err != nil {
		return nil, err
	}
	i := &issuer{}
	if i.signer, err = auth.NewSigner(key); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i.url = "http://" + l.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) { w.Write(i.signer.JWKS()) })
	go http.Serve(l, mux)
	return i, nil
}

// tokens are n tokens that differ.
func (i *issuer) tokens(n int) ([]string, error) {
	tokens := make([]string, n)
	err := all(n, parallel, func(k int) (err error) {
		now := time.Now()
		tokens[k], err = i.signer.Sign(map[string]any{
			"iss": i.url, "aud": "agents", "sub": "bench", "email": "bench@example.com", "roles": []string{"user"},
			"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": fmt.Sprint(i.made + k),
		})
		return err
	})
	i.made += n
	return tokens, err
}

// newCertificate puts a certificate for localhost into dir, for the gateway as two files and for
// HAProxy as one. It gives its DER form.
func newCertificate(dir string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true, IsCA: true, // clients trust it as it is
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	certificate, private := &pem.Block{Type: "CERTIFICATE", Bytes: der}, &pem.Block{Type: "PRIVATE KEY", Bytes: secret}
	for file, blocks := range map[string][]*pem.Block{"tls.crt": {certificate}, "tls.key": {private}, "tls.pem": {certificate, private}} {
		if err := writePEM(filepath.Join(dir, file), blocks...); err != nil {
			return nil, err
		}
	}
	return der, nil
}

func writePEM(file string, blocks ...*pem.Block) error {
	var b bytes.Buffer
	for _, block := range blocks {
		pem.Encode(&b, block)
	}
	return os.WriteFile(file, b.Bytes(), 0o600)
}
