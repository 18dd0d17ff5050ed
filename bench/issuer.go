//go:build linux

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/internal/selfsigned"
)

// issuer signs tokens and publishes its key at url/keys.
type issuer struct {
	url    string
	signer *auth.Signer
	made   int
	known  string // one of its tokens
}

// newIssuer serves until the process ends. The public key is also put into dir, in PEM form and as
// a key set, for proxies that fetch none.
func newIssuer(dir, alg string) (*issuer, error) {
	var key crypto.Signer
	var err error
	if alg == "ES256" {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		return nil, err
	}
	i := &issuer{}
	if i.signer, err = auth.NewSigner(key); err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	for file, text := range map[string][]byte{alg + ".pub": text, alg + ".json": i.signer.JWKS()} {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i.url = "http://" + l.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) { w.Write(i.signer.JWKS()) })
	go http.Serve(l, mux)
	tokens, err := i.tokens(1)
	if err != nil {
		return nil, err
	}
	i.known = tokens[0]
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
	cert, key, err := selfsigned.New(1, time.Now().Add(24*time.Hour), "localhost")
	if err != nil {
		return nil, err
	}
	for file, text := range map[string][]byte{"tls.crt": cert, "tls.key": key, "tls.pem": slices.Concat(cert, key)} {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			return nil, err
		}
	}
	block, _ := pem.Decode(cert)
	return block.Bytes, nil
}
