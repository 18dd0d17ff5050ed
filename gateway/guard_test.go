package gateway

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// A page of another origin can neither read nor change anything of the admin listener.
func TestPagesOfOtherOriginsAreKeptFromTheAdminListener(t *testing.T) {
	h := guarded([]string{"gateway.ops.example.com"},
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for _, tt := range []struct {
		host, site string
		origins    []string
		ok         bool
	}{
		{"127.0.0.1:9090", "", nil, true},
		{"10.1.2.3:9090", "", nil, true}, // a scrape, a probe
		{"[::1]:9090", "", nil, true},
		{"[::1]", "", nil, true},
		{"localhost:9090", "none", nil, true},
		{"LocalHost.", "same-origin", []string{"http://localhost."}, true},
		{"localhost:9090", "same-origin", []string{"http://localhost:9090"}, true},
		{"Gateway.ops.example.com:9090", "", nil, true},
		{"", "", nil, false},
		{":9090", "", nil, false},
		{"evil.example.com:9090", "", nil, false},
		{"localhost.evil.example.com", "", nil, false},
		{"127.0.0.1.evil.example.com", "", nil, false},
		{"127.0.0.1:9090", "cross-site", nil, false},
		{"127.0.0.1:9090", "", []string{"https://evil.example.com"}, false},
		{"127.0.0.1:9090", "", []string{"http://127.0.0.1:8080"}, false},
		{"127.0.0.1:9090", "", []string{"null"}, false},
		{"127.0.0.1:9090", "", []string{"http://127.0.0.1:9090", "https://evil.example.com"}, false},
	} {
		r := httptest.NewRequest("GET", "/sessions", nil)
		r.Host = tt.host
		if tt.site != "" {
			r.Header.Set("Sec-Fetch-Site", tt.site)
		}
		r.Header["Origin"] = tt.origins
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); (w.Code == http.StatusTeapot) != tt.ok || !tt.ok && w.Code != http.StatusForbidden {
			t.Errorf("%+v: %d", tt, w.Code)
		}
	}
	probe, w := httptest.NewRequest("GET", "/healthz", nil), httptest.NewRecorder()
	probe.Host, probe.Proto, probe.ProtoMinor = "", "HTTP/1.0", 0
	if h.ServeHTTP(w, probe); w.Code != http.StatusTeapot {
		t.Errorf("a probe without a Host: %d", w.Code)
	}
}
