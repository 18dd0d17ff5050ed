package auth

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// serving returns a gate whose issuer's key address is served by h, and the error of one fetch.
func serving(t *testing.T, h http.HandlerFunc, change func(*config.JWT)) (*gate, error) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	a, err := newGate(settings(func(c *config.Authentication) {
		c.JWT.JWKSURI = s.URL + "/keys"
		if change != nil {
			change(&c.JWT)
		}
	}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	a.now = func() time.Time { return now }
	return a, a.Refresh(t.Context())
}

func TestAcceptCoversWhatAKubernetesAPIServerGives(t *testing.T) {
	a, err := serving(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept"), "application/jwk-set+json") ||
			!strings.Contains(r.Header.Get("Accept"), "application/json") {
			w.WriteHeader(http.StatusNotAcceptable)
			return
		}
		io.WriteString(w, allKeys())
	}, nil)
	if err != nil || reason(a, good("rsa1", nil)) != "" {
		t.Error(err)
	}
}

func TestDocumentsAreReadAsServersSendThem(t *testing.T) {
	squeezed := func(text string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		io.WriteString(z, text)
		z.Close()
		return b.Bytes()
	}
	for name, c := range map[string]struct {
		encoding string
		body     []byte
		want     string // in the error
	}{
		"plain":                  {"", []byte(allKeys()), ""},
		"byte order mark":        {"", []byte("\ufeff" + allKeys()), ""},
		"gzip unasked":           {"gzip", squeezed(allKeys()), ""},
		"gzip and a mark":        {"x-gzip", squeezed("\ufeff" + allKeys()), ""},
		"gzip that is none":      {"gzip", []byte(allKeys()), "gzip: invalid header"},
		"a bomb":                 {"gzip", squeezed(strings.Repeat(" ", 64<<20)), "more than 1048576 bytes"},
		"another encoding":       {"br", []byte(allKeys()), `encoded as "br"`},
		"a mark and then a mark": {"", []byte("\ufeff\ufeff" + allKeys()), "not a JSON object"},
	} {
		_, err := serving(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if c.encoding != "" {
				w.Header().Set("Content-Encoding", c.encoding)
			}
			w.Write(c.body)
		}, nil)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRedirectIsNotFollowedButTold(t *testing.T) {
	_, err := serving(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/keys" {
			t.Errorf("%s was asked for", r.URL)
		}
		http.Redirect(w, r, "https://keys.example.com/v2/keys?code=secret", http.StatusMovedPermanently)
	}, nil)
	if err == nil || !strings.Contains(err.Error(),
		"301: a redirect to https://keys.example.com/v2/keys, which is not followed; write") || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func TestKeysInTheConfigurationNeedNoNetwork(t *testing.T) {
	change := func(c *config.Authentication) { c.JWT.JWKSURI, c.JWT.JWKS = "", set("rsa1") }
	synctest.Test(t, func(t *testing.T) {
		a := build(t, settings(change), func(*http.Request) (*http.Response, error) {
			t.Error("the network was used")
			return nil, io.EOF
		})
		done := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { a.Run(ctx); close(done) }()
		synctest.Wait()
		if !a.Ready() || reason(a, good("rsa1", nil)) != "" || reason(a, good("rsa2", nil)) != outcome.UnknownKey {
			t.Errorf("%+v", a.Issuers())
		}
		time.Sleep(time.Hour)
		cancel()
		<-done
		if err := a.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
	})
	for name, text := range map[string]string{
		"no set": `{}`, "nothing usable": set(published("rsa1", object{"use": "enc"})), "two values": set("rsa1") + set("rsa1"),
	} {
		if _, err := newGate(settings(func(c *config.Authentication) { c.JWT.JWKSURI, c.JWT.JWKS = "", text }), Options{}); err == nil ||
			!strings.Contains(err.Error(), "jwks: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysInAFileAreWatched(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.json")
	change := func(c *config.Authentication) { c.JWT.JWKSURI, c.JWT.JWKSFile = "", file }
	if _, err := newGate(settings(change), Options{}); err == nil || !strings.Contains(err.Error(), "jwksFile: open "+file) {
		t.Errorf("a file that is missing at the start: %v", err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write(set("rsa1"))
	ring()
	synctest.Test(t, func(t *testing.T) {
		a := build(t, settings(change), nil)
		if !a.Ready() || reason(a, good("rsa1", nil)) != "" {
			t.Error("not ready at once")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { a.Run(ctx); close(done) }()
		write("\ufeff" + set("rsa2"))
		time.Sleep(2 * fileEvery)
		if reason(a, good("rsa2", nil)) != "" || reason(a, good("rsa1", nil)) != outcome.UnknownKey {
			t.Error("the change went unseen")
		}
		for name, spoil := range map[string]func(){"bad": func() { write("{") }, "gone": func() { os.Remove(file) },
			"unusable": func() { write(set("rsa1024")) }} {
			spoil()
			time.Sleep(time.Hour)
			if state := a.Issuers()[0]; reason(a, good("rsa2", nil)) != "" || state.LastError == "" || state.Failures == 0 || !a.Ready() {
				t.Errorf("%s: the last good keys are not used: %+v", name, state)
			}
		}
		write(set("ec256"))
		time.Sleep(lastRetry)
		if reason(a, good("ec256", nil)) != "" {
			t.Error("not back")
		}
		cancel()
		<-done
	})
}

// TestEachFaultOfAKeyFileIsLogged: an operator who mends one fault must see the next.
func TestEachFaultOfAKeyFileIsLogged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.json")
	var log bytes.Buffer
	s := newKeySet(source{issuer: "https://a", file: file}, nil, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	for _, text := range []string{"", "{", "{", `{"keys": []}`, set("rsa1"), "{"} {
		if text != "" {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s.fetch(t.Context())
	}
	var got []string
	for line := range strings.Lines(log.String()) {
		for _, word := range []string{"no such file", "not a JSON object", "no keys in it", "keys fetched"} {
			if strings.Contains(line, word) {
				got = append(got, word)
			}
		}
	}
	want := []string{"no such file", "not a JSON object", "no keys in it", "keys fetched", "not a JSON object"}
	if !slices.Equal(got, want) {
		t.Errorf("logged %q, want %q", got, want)
	}
}

func TestB12DiscoveryCannotPointToThisMachine(t *testing.T) {
	for keys, want := range map[string]bool{
		"https://127.0.0.1/k": false, "https://127.9.9.9:8443/k": false, "https://localhost/k": false, "https://[::1]/k": false,
		"https://[::ffff:127.0.0.1]/k": false, "https://0.0.0.0/k": false, "https://169.254.169.254/k": false, "https://[fe80::1]/k": false,
		"http://127.0.0.1/k": false, "http://auth.example.com/k": false, "http://keys.example.com/k": false, "file:///k": false,
		"https://auth.example.com/k": true, "https://keys.example.com/k": true, "https://10.0.0.1/k": true,
	} {
		a := build(t, settings(func(c *config.Authentication) { c.JWT.JWKSURI = "" }), func(r *http.Request) (*http.Response, error) {
			switch r.URL.String() {
			case issuerName + "/.well-known/openid-configuration":
				return respond(200, fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, issuerName, keys))
			case keys:
				if !want {
					t.Errorf("%s was asked", keys)
				}
				return respond(200, allKeys())
			}
			return respond(404, "")
		})
		if err := a.Refresh(t.Context()); (err == nil) != want {
			t.Errorf("%s: %v", keys, err)
		}
	}
	// Nor by a name that resolves to it.
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	set := newKeySet(source{issuer: issuerName}, nil, NewKeys(Options{}).options)
	for guarded, want := range map[bool]bool{true: true, false: false} {
		transport, err := set.roundTripper(guarded)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ask(must(http.NewRequestWithContext(t.Context(), "GET", s.URL, nil)), transport)
		if got := err != nil && strings.Contains(err.Error(), errLocal.Error()); got != want {
			t.Errorf("guarded %v: %v", guarded, err)
		}
	}
}

func TestTokenForTheIssuerGoesToTheIssuerOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("first\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		uri, named string
		want       map[string]string // host and what it is sent
		err        string
	}{
		"discovery, keys on the issuer's host": {"", issuerName + "/k", map[string]string{"auth.example.com": "Bearer first"}, ""},
		"discovery, keys elsewhere": {"", "https://keys.example.com/k",
			map[string]string{"auth.example.com": "Bearer first", "keys.example.com": ""}, "write this address as jwksUri"},
		"jwksUri": {"https://keys.example.com/k", "", map[string]string{"keys.example.com": "Bearer first"}, ""},
	} {
		sent := map[string]string{}
		a := build(t, settings(func(c2 *config.Authentication) { c2.JWT.JWKSURI, c2.JWT.Fetch.BearerTokenFile = c.uri, file }),
			func(r *http.Request) (*http.Response, error) {
				sent[r.URL.Host] = r.Header.Get("Authorization")
				switch {
				case strings.HasSuffix(r.URL.Path, "/openid-configuration"):
					return respond(200, fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, issuerName, c.named))
				case r.Header.Get("Authorization") == "":
					return respond(401, "")
				}
				return respond(200, allKeys())
			})
		err := a.Refresh(t.Context())
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) || fmt.Sprint(sent) != fmt.Sprint(c.want) {
			t.Errorf("%s: sent %v, %v", name, sent, err)
		}
		if err != nil && strings.Contains(err.Error(), "first") {
			t.Errorf("%s: the token is told: %v", name, err)
		}
	}
	// It is read for each fetch.
	var sent []string
	a := build(t, settings(func(c *config.Authentication) { c.JWT.Fetch.BearerTokenFile = file }),
		func(r *http.Request) (*http.Response, error) {
			sent = append(sent, r.Header.Get("Authorization"))
			return respond(200, allKeys())
		})
	a.Refresh(t.Context())
	os.WriteFile(file, []byte("second"), 0o600)
	a.Refresh(t.Context())
	os.WriteFile(file, []byte("not one token"), 0o600)
	if err := a.Refresh(t.Context()); err == nil || strings.Contains(err.Error(), "not one token\n") {
		t.Error(err)
	}
	if fmt.Sprint(sent) != "[Bearer first Bearer second]" {
		t.Error(sent)
	}
}

func TestErrorOfAFetchNamesTheKeyThatItIsAbout(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	dir := t.TempDir()
	token, authority := filepath.Join(dir, "token"), filepath.Join(dir, "ca.pem")
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der := must(x509.CreateCertificate(nil, template, template, public, private))
	for file, text := range map[string][]byte{token: []byte("t"),
		authority: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	answers := func(code int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
		t.Cleanup(s.Close)
		return s.URL
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	for name, c := range map[string]struct {
		uri  string
		how  config.Fetch
		want string
	}{
		"unknown authority": {secure.URL, config.Fetch{}, "unknown authority; fetch.caFile can name"},
		"other authorities": {secure.URL, config.Fetch{CAFile: authority}, "none of those in fetch.caFile, " + authority},
		"proxy that refuses": {"https://keys.example.com", config.Fetch{Proxy: answers(403)},
			": the proxy of fetch.proxy answers 403, and does not connect"},
		"proxy that wants a user": {"https://keys.example.com", config.Fetch{Proxy: answers(407)},
			"the proxy of fetch.proxy answers 407: it wants a user"},
		"proxy that is gone": {"https://keys.example.com", config.Fetch{Proxy: closed.URL},
			"the proxy of fetch.proxy cannot be reached: "},
		"proxy for plain http": {"http://keys.example.com", config.Fetch{Proxy: answers(403)},
			"status 403, perhaps of the proxy of fetch.proxy"},
		"no token": {answers(401), config.Fetch{},
			"status 401; if a token is needed, as by a Kubernetes API server, name its file in fetch.bearerTokenFile"},
		"a token that is refused": {answers(403), config.Fetch{BearerTokenFile: token},
			"status 403, although the token of fetch.bearerTokenFile was sent"},
		"another status": {answers(404), config.Fetch{BearerTokenFile: token}, "status 404"},
	} {
		a, err := newGate(settings(func(s *config.Authentication) {
			s.JWT.JWKSURI, s.JWT.Fetch, s.JWT.InsecureHTTP = c.uri+"/keys", c.how, true
		}), Options{})
		if err != nil {
			t.Fatal(err)
		}
		err = a.Refresh(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || c.want == "status 404" && !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// They need not be there at the start: check also runs where the cluster's files are not.
func TestFetchTellsWhichFileIsMissing(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"missing", empty} {
		for key, change := range map[string]func(*config.Fetch){
			"fetch.caFile":          func(f *config.Fetch) { f.CAFile = file },
			"fetch.bearerTokenFile": func(f *config.Fetch) { f.BearerTokenFile = file },
		} {
			asked := func(http.ResponseWriter, *http.Request) { t.Errorf("%s %s: the issuer was asked", key, file) }
			if _, err := serving(t, asked, func(j *config.JWT) { change(&j.Fetch) }); err == nil ||
				!strings.Contains(err.Error(), key+": ") {
				t.Errorf("%s %s: %v", key, file, err)
			}
		}
	}
}

func TestTimeoutAndIntervalOfFetch(t *testing.T) {
	i := &idp{status: 200, body: allKeys(), delay: 2 * time.Second}
	ring()
	for _, change := range []func(*config.JWT){
		func(j *config.JWT) { j.Fetch.Timeout = time.Second },
		func(j *config.JWT) { j.Timeout = time.Second },
	} {
		synctest.Test(t, func(t *testing.T) {
			a := build(t, settings(func(c *config.Authentication) { change(&c.JWT) }), i.roundTrip)
			if err := a.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "no whole answer within 1s") {
				t.Error(err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		a := build(t, settings(func(c *config.Authentication) { c.JWT.Fetch.Interval = time.Minute }), i.roundTrip)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { a.Run(ctx); close(done) }()
		before := i.count()
		time.Sleep(time.Hour)
		if n := i.count() - before; n < 55 || n > 70 {
			t.Errorf("%d fetches in an hour", n)
		}
		cancel()
		<-done
	})
}

func TestEd25519IsAnotherNameOfEdDSA(t *testing.T) {
	for _, key := range []any{nil, "EdDSA", "Ed25519"} {
		for _, alg := range []string{"EdDSA", "Ed25519"} {
			for _, allowed := range [][]string{{"EdDSA"}, {"Ed25519"}, {"ES256", "Ed25519"}} {
				a := ready(t, set(published("ed25519", object{"alg": key})), func(c *config.Authentication) { c.JWT.Algorithms = allowed })
				if got := reason(a, mint("ed25519", object{"alg": alg, "kid": "ed25519"}, claims(nil))); got != "" {
					t.Errorf("key %v, token %s, allowed %v: %q", key, alg, allowed, got)
				}
			}
		}
	}
	a := ready(t, allKeys(), func(c *config.Authentication) { c.JWT.Algorithms = []string{"ES256"} })
	refusedAlg := mint("ed25519", object{"alg": "Ed25519", "kid": "ed25519"}, claims(nil))
	if got := reason(a, refusedAlg); got != outcome.AlgNotAllowed {
		t.Error(got)
	}
	refused(t, outcome.AlgNotAllowed, mint("ed25519", object{"alg": "Ed448", "kid": "ed25519"}, claims(nil)))
	refused(t, outcome.AlgKeyMismatch, mint("ed25519", object{"alg": "Ed25519", "kid": "ec256"}, claims(nil)))
}
