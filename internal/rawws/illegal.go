package rawws

import (
	"bytes"
	"strings"
)

// Illegal returns byte sequences that violate RFC 6455 in one way each, by the name of the
// violation. masked is true for those of a client.
func Illegal(masked bool) map[string][]byte {
	bit := byte(0)
	if masked {
		bit = 0x80
	}
	frame := func(first byte, payload string) []byte { return Make(first, []byte(payload), masked) }
	head := func(b ...byte) []byte { return append(b, make([]byte, 8)...) }
	return map[string][]byte{
		"RSV1":                     frame(Fin|0x40|Text, "x"),
		"RSV2":                     frame(Fin|0x20|Text, "x"),
		"RSV3":                     frame(Fin|0x10|Binary, "x"),
		"RSV1 on a Ping":           frame(Fin|0x40|Ping, "x"),
		"opcode 3":                 frame(Fin|3, "x"),
		"opcode 7":                 frame(Fin|7, "x"),
		"opcode 11":                frame(Fin|11, "x"),
		"opcode 15":                frame(Fin|15, "x"),
		"wrong mask bit":           Make(Fin|Text, []byte("x"), !masked),
		"wrong mask bit on Close":  Make(Fin|Close, []byte{3, 232}, !masked),
		"Ping over 125":            frame(Fin|Ping, strings.Repeat("x", 126)),
		"Close over 125":           frame(Fin|Close, "\x03\xe8"+strings.Repeat("x", 124)),
		"fragmented Ping":          frame(Ping, "x"),
		"fragmented Close":         frame(Close, "\x03\xe8"),
		"continuation of nothing":  frame(Fin|Continuation, "x"),
		"text inside a fragmented": bytes.Join([][]byte{frame(Text, "a"), frame(Fin|Text, "b")}, nil),
		"length with the top bit":  head(Fin|Binary, bit|127, 0x80, 0, 0, 0, 0, 0, 0, 1),
		"16 bit length for 125":    append([]byte{Fin | Binary, bit | 126, 0, 125}, make([]byte, 129)...),
		"64 bit length for 65535":  head(Fin|Binary, bit|127, 0, 0, 0, 0, 0, 0, 0xff, 0xff),
		"Close with one byte":      frame(Fin|Close, "\x03"),
		"Close 0":                  MakeClose(0x10000, "", masked), // 0, as MakeClose(0) would leave the code out
		"Close 999":                MakeClose(999, "", masked),
		"Close 1004":               MakeClose(1004, "", masked),
		"Close 1005":               MakeClose(1005, "", masked),
		"Close 1006":               MakeClose(1006, "", masked),
		"Close 1015":               MakeClose(1015, "", masked),
		"Close 1016":               MakeClose(1016, "", masked),
		"Close 2999":               MakeClose(2999, "", masked),
		"Close 5000":               MakeClose(5000, "", masked),
		"Close 65535":              MakeClose(65535, "", masked),
	}
}
