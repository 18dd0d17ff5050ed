package handshake

import (
	"net/http"
	"strings"
	"testing"

	"github.com/altairalabs/omnia-gateway/internal/rawws"
	"github.com/altairalabs/omnia-gateway/outcome"
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
		want   outcome.Reason
	}{
		{"right", func(*http.Request) {}, ""},
		{"other case", func(r *http.Request) {
			r.Header["Upgrade"], r.Header["Connection"] = []string{"WebSocket"}, []string{"keep-alive,UPGRADE"}
		}, ""},
		{"two lines of Connection", func(r *http.Request) { r.Header["Connection"] = []string{"keep-alive", "Upgrade"} }, ""},
		{"a list", func(r *http.Request) { r.Header["Upgrade"] = []string{"h2c, websocket"} }, ""},
		{"two lines", func(r *http.Request) { r.Header["Upgrade"] = []string{"websocket", "websocket"} }, ""},
		{"no Connection", func(r *http.Request) { r.Header.Del("Connection") }, outcome.BadUpgrade},
		{"another Connection", func(r *http.Request) { r.Header["Connection"] = []string{"close, upgraded"} }, outcome.BadUpgrade},
		{"POST", func(r *http.Request) { r.Method = "POST" }, outcome.BadUpgrade},
		{"HTTP/1.0", func(r *http.Request) { r.ProtoMinor = 0 }, outcome.BadUpgrade},
		{"no version", func(r *http.Request) { r.Header.Del("Sec-WebSocket-Version") }, outcome.BadUpgrade},
		{"version 8", func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "8") }, outcome.BadVersion},
		{"two versions", func(r *http.Request) { r.Header.Add("Sec-WebSocket-Version", "13") }, outcome.BadVersion},
		{"no key", func(r *http.Request) { r.Header.Del("Sec-WebSocket-Key") }, outcome.BadUpgrade},
		{"a short key", func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "AAAA") }, outcome.BadUpgrade},
		{"two keys", func(r *http.Request) { r.Header.Add("Sec-WebSocket-Key", rawws.Key) }, outcome.BadUpgrade},
		{"a body", func(r *http.Request) { r.ContentLength = 5 }, outcome.BadUpgrade},
		{"a body of unknown length", func(r *http.Request) { r.ContentLength = -1 }, outcome.BadUpgrade},
		{"a chunked body", func(r *http.Request) { r.TransferEncoding = []string{"chunked"} }, outcome.BadUpgrade},
		{"Expect", func(r *http.Request) { r.Header.Set("Expect", "100-continue") }, outcome.BadUpgrade},
	} {
		r := right()
		tt.change(r)
		if word, why := Fault(r); word != tt.want || (why == "") != (word == "") || !Wanted(r) {
			t.Errorf("%s: %q %q, wanted %v", tt.name, word, why, Wanted(r))
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

func TestOnlyWebSocketIsAnUpgrade(t *testing.T) {
	for lines, want := range map[string]bool{
		"websocket": true, "WebSocket": true, "h2c, websocket": true, "h2c|websocket": true, "websocket|websocket": true,
		"": false, "h2c": false, "TLS/1.0, HTTP/1.1": false, "websocket/13": false, "websockets": false, "\"websocket\"": false,
	} {
		if got := Wanted(&http.Request{Header: http.Header{"Upgrade": strings.Split(lines, "|")}}); got != want {
			t.Errorf("%q: %v", lines, got)
		}
	}
}

func TestNamesAreSpelledAsInTheRFC(t *testing.T) {
	got := Spelled(http.Header{
		"Sec-Websocket-Key": {"a"}, "Sec-Websocket-Accept": {"b"}, "Sec-Websocket-Version": {"c"}, "Sec-Websocket-Protocol": {"d", "e"},
		"Sec-Websocket-Extensions": {"f"}, "Sec-Websocket-Other": {"g"}, "X-User-Id": {"h"},
	})
	var b strings.Builder
	got.Write(&b)
	want := "Sec-WebSocket-Accept: b\r\nSec-WebSocket-Extensions: f\r\nSec-WebSocket-Key: a\r\nSec-WebSocket-Protocol: d\r\n" +
		"Sec-WebSocket-Protocol: e\r\nSec-WebSocket-Version: c\r\nSec-Websocket-Other: g\r\nX-User-Id: h\r\n"
	if b.String() != want {
		t.Errorf("got %s", b.String())
	}
}
