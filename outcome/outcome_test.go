package outcome

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
)

// documented returns the first two cells of each row of docs/outcomes.md that begins with a word,
// by the heading above it.
func documented(t *testing.T) map[string]map[Reason]string {
	t.Helper()
	page, err := os.ReadFile("../docs/outcomes.md")
	if err != nil {
		t.Fatal(err)
	}
	rows, section := map[string]map[Reason]string{}, ""
	for line := range strings.Lines(string(page)) {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			section = strings.TrimSpace(title)
			rows[section] = map[Reason]string{}
		}
		if cells := strings.Split(line, "|"); len(cells) > 2 && strings.HasPrefix(line, "| `") {
			word := Reason(strings.Trim(cells[1], " `"))
			if _, twice := rows[section][word]; twice {
				t.Errorf("%s: %s stands there twice", section, word)
			}
			rows[section][word] = strings.TrimSpace(cells[2])
		}
	}
	return rows
}

func TestEveryOutcomeIsDocumented(t *testing.T) {
	doc := documented(t)
	through, refused, ended := doc["Let through"], doc["Refused"], doc["Ended"]
	known := map[Reason]bool{}
	for _, word := range All() {
		if known[word] {
			t.Errorf("%s stands in the table twice", word)
		}
		known[word] = true
		if _, ok := through[word]; ok != word.LetsThrough() {
			t.Errorf("%s: documented as let through: %v", word, ok)
		}
		status, ok := refused[word]
		if ok != word.Refuses() || ok && rows[word].status > 0 && status != strconv.Itoa(word.Status()) {
			t.Errorf("%s: documented as a refusal with %q, answered with %d", word, status, word.Status())
		}
		code, ok := ended[word]
		if ok != word.Ends() || ok && rows[word].code > 0 && code != strconv.Itoa(word.Code()) {
			t.Errorf("%s: documented as an ending with %q, closed with %d", word, code, word.Code())
		}
		if word.LetsThrough() == (word.Refuses() || word.Ends()) {
			t.Errorf("%s lets through and refuses, or neither", word)
		}
	}
	for section, words := range doc {
		for word := range words {
			if !known[word] {
				t.Errorf("%s: there is no %s", section, word)
			}
		}
	}
}

func TestCloseCodesMayBeSent(t *testing.T) {
	for _, word := range All() {
		code := End(word, "").Code
		registered := code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006
		if !registered && (code < 3000 || code > 4999) {
			t.Errorf("%s: %d must not stand in a Close frame", word, code)
		}
		if len(word) > 123 {
			t.Errorf("%s is too long for a Close frame", word)
		}
	}
}

func TestChallenges(t *testing.T) {
	for _, word := range All() {
		want := ""
		switch {
		case word == NoToken:
			want = `Bearer realm="omnia-gateway"`
		case word.Refuses() && word.Status() == 401:
			want = `Bearer realm="omnia-gateway", error="invalid_token", error_description="` + string(word) + `"`
		case word == ClaimMismatch:
			want = `Bearer realm="omnia-gateway", error="insufficient_scope", error_description="` + string(word) + `"`
		}
		if got := word.Challenge(); got != want {
			t.Errorf("%s: challenge %s", word, got)
		}
		if after, tryAgain := word.RetryAfter(), word.Status() == 503 || word.Status() == 429; (after != "") != tryAgain {
			t.Errorf("%s: status %d with Retry-After %q", word, word.Status(), after)
		}
	}
}

func TestUnknownErrorsLetNoRequestIn(t *testing.T) {
	cause := errors.New("line one\nline two " + strings.Repeat("é", 400))
	r := RefusalOf(cause)
	if r.Reason != InternalError || r.Reason.Status() != 500 || !errors.Is(r, cause) {
		t.Errorf("got %+v", r)
	}
	if text := r.Text(); strings.Contains(text, "\n") || len(text) > maxLine || !strings.HasPrefix(text, "line one line two") {
		t.Errorf("text %q", text)
	}
	if Reason("made up").Status() != 500 || Reason("made up").Code() != 1011 {
		t.Error("an unknown word is more than a mistake of the gateway's own")
	}
	inner := Refuse(NoToken, "none")
	if got := RefusalOf(errors.Join(errors.New("x"), inner)); got != inner {
		t.Errorf("got %v", got)
	}
}

func TestEachSideIsToldItsOwnPart(t *testing.T) {
	for _, tt := range []struct {
		ending        *Ending
		client, agent int
	}{
		{End(Expired, ""), 3000, 1001},
		{End(Drain, ""), 1001, 1001},
		{End(Idle, ""), 1000, 1001},
		{End(ClientLost, ""), 1001, 1001},
		{End(UpstreamLost, ""), 1001, 1001},
		{End(InternalError, ""), 1011, 1001},
		{Fault(DeadPeer, Client, ""), 3008, 1001},
		{Fault(DeadPeer, Agent, ""), 3008, 1001},
		{Fault(ProtocolError, Client, ""), 1002, 1001},
		{Fault(ProtocolError, Agent, ""), 1011, 1002},
		{Fault(MessageTooBig, Client, ""), 1009, 1001},
		{Fault(MessageTooBig, Agent, ""), 1011, 1009},
	} {
		client, word := tt.ending.Told(Client)
		agent, same := tt.ending.Told(Agent)
		if client != tt.client || agent != tt.agent || word != string(tt.ending.Reason) || same != word || tt.ending.Code != client {
			t.Errorf("%s by the %s: told %d and %d, want %d and %d", word, tt.ending.By, client, agent, tt.client, tt.agent)
		}
	}
}

func TestErrorsForTheLogAreOneShortLine(t *testing.T) {
	if got := Line(nil); got != "" {
		t.Errorf("%q", got)
	}
	got := Line(&Refusal{Reason: "a", Detail: "b\r\nc\t d\xff" + strings.Repeat("x", 1000)})
	if strings.ContainsAny(got, "\r\n\t") || len(got) != 300 || !strings.HasPrefix(got, "a: b c d?x") {
		t.Errorf("%q", got)
	}
}

func TestWordsOfClientsAreBoundedForTheLog(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, c := range []struct{ words, clipped, quoted string }{
		{"", "", `""`},
		{"a b", "a b", `"a b"`},
		{"a\n\"b\"", "a\n\"b\"", `"a\n\"b\""`},
		{"a\xff", "a?", `"a\xff"`},
		{long + "x", long + "x", `"` + long + `x"`},
		{long + "xy", long + "x…", `"` + long + `x"…`},
		{long + "é", long + "…", `"` + long + `"…`}, // 257 bytes: not half of the last character
		{strings.Repeat("\x80", 999), "?…", `"` + strings.Repeat(`\x80`, 252) + `"…`},
	} {
		if got := Clip(c.words); got != c.clipped {
			t.Errorf("Clip(%q): %q", c.words, got)
		}
		if got := Quote(c.words); got != c.quoted {
			t.Errorf("Quote(%q): %q", c.words, got)
		}
	}
	if got := Brief(long[:63] + "é\n"); got != `"`+long[:63]+`"…` {
		t.Errorf("Brief: %q", got)
	}
}
