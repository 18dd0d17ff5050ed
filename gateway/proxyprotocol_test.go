package gateway

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"
)

// headerV2 is a header of version 2 with its fixed part made by hand, so that it can be wrong.
func headerV2(command, family byte, length int, rest string) string {
	return string(proxyproto.SIGV2) + string([]byte{command, family, byte(length >> 8), byte(length)}) + rest
}

const addressesV4 = "\xc0\x00\x02\x07\xc6\x33\x64\x01\xd4\x31\x01\xbb" // 192.0.2.7:54321 → 198.51.100.1:443

func TestProxyHeaderIsReadToItsEndAndNoFurther(t *testing.T) {
	for name, c := range map[string]struct{ header, source string }{
		"v1, IPv4":          {"PROXY TCP4 192.0.2.7 198.51.100.1 54321 443\r\n", "192.0.2.7:54321"},
		"v1, IPv6":          {"PROXY TCP6 2001:db8::7 2001:db8::1 54321 443\r\n", "[2001:db8::7]:54321"},
		"v1, unknown":       {"PROXY UNKNOWN\r\n", ""},
		"v1, unknown, long": {"PROXY UNKNOWN " + strings.Repeat("f", 91) + "\r\n", ""},
		"v2, IPv4":          {headerV2(0x21, 0x11, 12, addressesV4), "192.0.2.7:54321"},
		"v2, IPv6": {headerV2(0x21, 0x21, 36, strings.Repeat("\x20", 32)+"\xd4\x31\x01\xbb"),
			"[2020:2020:2020:2020:2020:2020:2020:2020]:54321"},
		"v2, extensions":    {headerV2(0x21, 0x11, 12+7, addressesV4+"\xea\x00\x04vpce"), "192.0.2.7:54321"},
		"v2, local":         {headerV2(0x20, 0x00, 0, ""), ""},
		"v2, local, padded": {headerV2(0x20, 0x11, 12, addressesV4), ""},
	} {
		t.Run(name, func(t *testing.T) {
			const request = "GET / HTTP/1.1\r\n\r\n"
			r := strings.NewReader(c.header + request)
			source, err := readProxyHeader(r)
			if rest, _ := io.ReadAll(r); err != nil || string(rest) != request {
				t.Fatalf("%v; left is %q", err, rest)
			}
			if got := ""; source != nil {
				got = source.String()
				if got != c.source {
					t.Errorf("got %s, want %s", got, c.source)
				}
			} else if c.source != got {
				t.Errorf("got no address, want %s", c.source)
			}
		})
	}
}

func TestWrongProxyHeaderIsRefused(t *testing.T) {
	for name, header := range map[string]string{
		"HTTP":                 "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"TLS":                  "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 500),
		"stops at once":        "PROXY",
		"stops in the middle":  "PROXY TCP4 192.0.2.7 ",
		"v1 without end":       "PROXY TCP4 " + strings.Repeat("1", 200),
		"v1 without CR":        "PROXY TCP4 192.0.2.7 198.51.100.1 54321 443\n",
		"v1 with a name":       "PROXY TCP4 localhost 198.51.100.1 54321 443\r\n",
		"v1 of no client":      "PROXY TCP4 0.0.0.0 198.51.100.1 54321 443\r\n",
		"v1 of none, mapped":   "PROXY TCP6 ::ffff:0.0.0.0 2001:db8::1 54321 443\r\n",
		"v1 with port 70000":   "PROXY TCP4 192.0.2.7 198.51.100.1 70000 443\r\n",
		"v1, UDP":              "PROXY UDP4 192.0.2.7 198.51.100.1 54321 443\r\n",
		"v1, another word":     "PROXYING TCP4 192.0.2.7 198.51.100.1 54321 443\r\n",
		"v2, version 3":        headerV2(0x31, 0x11, 12, addressesV4),
		"v2, UDP":              headerV2(0x21, 0x12, 12, addressesV4),
		"v2, unix":             headerV2(0x21, 0x31, 216, strings.Repeat("a", 216)),
		"v2, no family":        headerV2(0x21, 0x00, 0, ""),
		"v2, too short":        headerV2(0x21, 0x11, 8, addressesV4),
		"v2, too long":         headerV2(0x21, 0x11, 0xffff, addressesV4+strings.Repeat("x", 0xffff)),
		"v2 stops":             headerV2(0x21, 0x11, 12, "\xc0"),
		"v2 stops in its head": string(proxyproto.SIGV2) + "\x21",
	} {
		t.Run(name, func(t *testing.T) {
			r := strings.NewReader(header)
			if source, err := readProxyHeader(r); err == nil {
				t.Errorf("taken for %v", source)
			} else if err == io.EOF {
				t.Error("taken for a connection without a byte")
			}
			if taken := int(r.Size()) - r.Len(); taken > maxHeaderV2+16 {
				t.Errorf("%d bytes were read", taken)
			}
		})
	}
}

// FuzzProxyHeader: what is read is a header that the library reads too, with the same address, and
// no byte beyond it.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 198.51.100.1 54321 443\r\nGET"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(headerV2(0x21, 0x11, 12, addressesV4) + "GET"))
	f.Add([]byte(headerV2(0x20, 0x00, 0, "")))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		source, err := readProxyHeader(r)
		if err != nil {
			return
		}
		header := b[:len(b)-r.Len()]
		if len(header) < 15 || len(header) > maxHeaderV2+16 {
			t.Errorf("a header of %d bytes", len(header))
		}
		if source == nil {
			return
		}
		tcp := source.(*net.TCPAddr)
		version := byte(1)
		if header[0] == proxyproto.SIGV2[0] {
			version = 2
		}
		again, err := proxyproto.HeaderProxyFromAddrs(version, tcp, tcp).Format()
		if err != nil {
			t.Fatal(err)
		}
		if same, err := readProxyHeader(bytes.NewReader(again)); err != nil || same.String() != source.String() {
			t.Errorf("%v is written as %q and read as %v (%v)", source, again, same, err)
		}
	})
}
