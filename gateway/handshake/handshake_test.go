package handshake

import (
	"net/http"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
)

// right returns a right handshake, as net/http hands it over.
func right() *http.Request {
	return &http.Request{
		Method: "GET", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody,
		Header: http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {rawws.Key},
		},
	}
}

func TestUpgrades(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*http.Request)
		ok     bool
	}{
		{"right", func(*http.Request) {}, true},
		{"other case", func(r *http.Request) {
			r.Header["Upgrade"], r.Header["Connection"] = []string{"WebSocket"}, []string{"keep-alive,UPGRADE"}
		}, true},
		{"two lines of Connection", func(r *http.Request) { r.Header["Connection"] = []string{"keep-alive", "Upgrade"} }, true},
		{"h2c", func(r *http.Request) { r.Header["Upgrade"] = []string{"h2c"} }, false},
		{"a list", func(r *http.Request) { r.Header["Upgrade"] = []string{"websocket, h2c"} }, false},
		{"two lines", func(r *http.Request) { r.Header["Upgrade"] = []string{"websocket", "websocket"} }, false},
		{"empty", func(r *http.Request) { r.Header["Upgrade"] = []string{""} }, false},
		{"no Connection", func(r *http.Request) { r.Header.Del("Connection") }, false},
		{"another Connection", func(r *http.Request) { r.Header["Connection"] = []string{"close, upgraded"} }, false},
		{"POST", func(r *http.Request) { r.Method = "POST" }, false},
		{"HTTP/1.0", func(r *http.Request) { r.ProtoMinor = 0 }, false},
		{"no version", func(r *http.Request) { r.Header.Del("Sec-WebSocket-Version") }, false},
		{"version 8", func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "8") }, false},
		{"two versions", func(r *http.Request) { r.Header.Add("Sec-WebSocket-Version", "13") }, false},
		{"no key", func(r *http.Request) { r.Header.Del("Sec-WebSocket-Key") }, false},
		{"a short key", func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "AAAA") }, false},
		{"two keys", func(r *http.Request) { r.Header.Add("Sec-WebSocket-Key", rawws.Key) }, false},
		{"a body", func(r *http.Request) { r.ContentLength = 5 }, false},
		{"a body of unknown length", func(r *http.Request) { r.ContentLength = -1 }, false},
		{"a chunked body", func(r *http.Request) { r.TransferEncoding = []string{"chunked"} }, false},
		{"Expect", func(r *http.Request) { r.Header.Set("Expect", "100-continue") }, false},
	} {
		r := right()
		tt.change(r)
		if why := Fault(r); (why == "") != tt.ok {
			t.Errorf("%s: %q", tt.name, why)
		}
	}
}

func TestReservedBits(t *testing.T) {
	for chosen, want := range map[string]byte{
		"":                   0,
		"permessage-deflate": 0x40,
		"permessage-deflate; server_max_window_bits=10":    0x40,
		"x-webkit-deflate-frame":                           0x70,
		"x-other, permessage-deflate; client_max_window":   0x70,
		"permessage-deflate, x-other":                      0x70,
		", permessage-deflate ,":                           0x40,
		"permessage-deflatex":                              0x70,
		"permessage-deflate,permessage-deflate; x=\"a,b\"": 0x70, // taken apart wrongly, and so with more allowed than needed
	} {
		if got := ReservedBits(http.Header{"Sec-Websocket-Extensions": {chosen}}); got != want {
			t.Errorf("%q: %#x, want %#x", chosen, got, want)
		}
	}
}

func TestSubprotocolForTheClient(t *testing.T) {
	for _, tt := range []struct {
		name   string
		p      Protocols
		chosen string
		want   string
	}{
		{"the agent's choice", Protocols{Offered: []string{"a", "b"}}, "b", "b"},
		{"the agent's choice beside a token", Protocols{Offered: []string{"a", "b"}, Token: true, Fallback: "bearer"}, "b", "b"},
		{"no choice", Protocols{Offered: []string{"a"}}, "", ""},
		{"no choice beside a token", Protocols{Offered: []string{"a", "b"}, Token: true, Fallback: "bearer"}, "", "a"},
		{"bearer and nothing else", Protocols{Token: true, Fallback: "bearer"}, "", "bearer"},
		{"the form of Kubernetes and nothing else", Protocols{Token: true}, "", ""},
		{"nothing offered", Protocols{}, "", ""},
	} {
		if got := tt.p.Answer(tt.chosen); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestKeys(t *testing.T) {
	if got := AcceptKey(rawws.Key); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" { // RFC 6455 §1.3
		t.Errorf("accept key %s", got)
	}
	for key, want := range map[string]bool{
		rawws.Key: true, "AAAAAAAAAAAAAAAAAAAAAA==": true,
		"": false, "x": false, "AAAAAAAAAAAAAAAAAAAA": false, "AAAAAAAAAAAAAAAAAAAAAAA=": false, "dGhlIHNhbXBsZSBub25jZQ": false,
		"dGhlIHNhbXBsZSBub25jZQ== ": false, "dGhlIHNhbXBsZSBub25j*Q==": false,
	} {
		if validKey(key) != want {
			t.Errorf("%q: %v", key, !want)
		}
	}
}
