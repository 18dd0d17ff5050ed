package e2e

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/altairalabs/omnia-gateway/auth"
)

// clusterIssuer is a server that behaves as a Kubernetes API server without anonymous access: a
// certificate of a private CA, no document without a token, each document in its own media type
// only, and keys at an address that discovery names by another host.
func clusterIssuer(t *testing.T, signer *auth.Signer, token func() string) *httptest.Server {
	var s *httptest.Server
	s = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		accepts := func(media string) bool { return strings.Contains(r.Header.Get("Accept"), media) }
		switch {
		case r.Header.Get("Authorization") != "Bearer "+token():
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/.well-known/openid-configuration" && accepts("application/json"):
			elsewhere := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
			json.NewEncoder(w).Encode(map[string]string{"issuer": s.URL, "jwks_uri": elsewhere + "/openid/v1/jwks"})
		case r.URL.Path == "/openid/v1/jwks" && accepts("application/jwk-set+json"):
			w.Header().Set("Content-Type", "application/jwk-set+json")
			w.Write(signer.JWKS())
		default:
			w.WriteHeader(http.StatusNotAcceptable)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestKubernetesAPIServerIsAnIssuer(t *testing.T) {
	dir, signer := t.TempDir(), newSigner(t)
	var token atomic.Value
	token.Store("service-account-token")
	api := clusterIssuer(t, signer, func() string { return token.Load().(string) })
	ca, tokenFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	writeFile(t, ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}))
	writeFile(t, tokenFile, []byte("service-account-token\n"))

	i := &issuer{Server: api, Signer: signer}
	s := plain(i, newAgent(t, nil).URL).
		with("authentication.jwt.jwksUri", api.URL+"/openid/v1/jwks").
		with("authentication.jwt.fetch", map[string]any{"caFile": ca, "bearerTokenFile": tokenFile})
	g := start(t, s)
	g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("from a pod")
	if log := g.log.text(); strings.Contains(log, "service-account-token") {
		t.Error("the token is in the log")
	}

	// Without jwksUri the token would have to go where the document points. It does not, and the
	// gateway tells what to write.
	g = startUnready(t, s.with("authentication.jwt.jwksUri", ""))
	eventually(t, "a hint", func() bool {
		_, body := g.ask("/readyz")
		return strings.Contains(body, "write this address as jwksUri")
	})
	g.refused(t, 503, "jwks-unavailable", "/my-agent/ws", i.bearer(t))
}

// The issuer's name resolves nowhere: the proxy is the only way.
func TestProxyIsTheOnlyWayToTheIssuer(t *testing.T) {
	dir, signer := t.TempDir(), newSigner(t)
	var tunnels atomic.Int64
	keys := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(signer.JWKS()) }))
	keys.StartTLS()
	t.Cleanup(keys.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "example.com:443" || r.Header.Get("Proxy-Authorization") == "" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		tunnels.Add(1)
		to, err := net.Dial("tcp", keys.Listener.Addr().String())
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer to.Close()
		from, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(to, from); to.Close() }()
		io.Copy(from, to)
	}))
	t.Cleanup(proxy.Close)
	ca := filepath.Join(dir, "ca.pem")
	writeFile(t, ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: keys.Certificate().Raw}))
	if keys.Certificate().VerifyHostname("example.com") != nil {
		t.Fatal("the test's certificate is not for example.com")
	}

	withPassword := strings.Replace(proxy.URL, "http://", "http://user:hunter2@", 1)
	i := &issuer{Server: &httptest.Server{URL: "https://example.com"}, Signer: signer}
	g := start(t, plain(i, newAgent(t, nil).URL).
		with("authentication.jwt.jwksUri", "https://example.com/keys").
		with("authentication.jwt.fetch", map[string]any{"proxy": withPassword, "caFile": ca}))
	g.connect(t, "/my-agent/ws", i.bearer(t)).echoes("by the proxy")
	if tunnels.Load() == 0 {
		t.Error("not by the proxy")
	}
	if _, body := g.ask("/readyz"); strings.Contains(body+g.log.text(), "hunter2") {
		t.Error("the proxy's password is told")
	}
}

func TestRotationUnderTheSameKidIsSeenByTheFirstToken(t *testing.T) {
	i := newIssuer(t)
	publish := func(s *auth.Signer) {
		text := strings.ReplaceAll(string(s.JWKS()), s.KeyID(), "the-one-kid")
		i.answer(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
	}
	publish(i.Signer)
	g := start(t, plain(i, newAgent(t, nil).URL))
	bearer := func(s *auth.Signer) string { return "Authorization: Bearer " + underKid(t, i, s, "the-one-kid") }
	g.connect(t, "/my-agent/ws", bearer(i.Signer)).echoes("before")

	next := newSigner(t)
	publish(next)
	asked := i.asked.Load()
	g.connect(t, "/my-agent/ws", bearer(next)).echoes("after")
	g.refused(t, 401, "bad-signature", "/my-agent/ws", bearer(i.Signer))
	if n := i.asked.Load() - asked; n < 1 || n > 2 { // the second for a subject that is known
		t.Errorf("%d fetches", n)
	}
}

// underKid makes a token of the issuer by another key and under another kid.
func underKid(t *testing.T, i *issuer, s *auth.Signer, kid string) string {
	t.Helper()
	text, err := s.PEM()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := part(map[string]string{"alg": "ES256", "kid": kid}) + "." + part(i.claims())
	sum := sha256.Sum256([]byte(signed))
	r, v, err := ecdsa.Sign(rand.Reader, key.(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func writeFile(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
