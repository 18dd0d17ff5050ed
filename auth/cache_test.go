package auth

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// Ten thousand different valid tokens, as large as a request may bring them: what is remembered of
// them stays within its bound. Their text is what was verified, so that signing need not be tried.
func TestA28CacheIsBoundedInBytes(t *testing.T) {
	a := ready(t, allKeys(), nil)
	keys := a.issuers[0].keys.current()
	list := strings.Repeat("0,", 1000) + "0"
	before := heap()
	for n := range 10_000 {
		payload := fmt.Sprintf(`{"iss":%q,"sub":"user-%d","exp":1800000300,"list":[%s],"pad":%q%s}`, issuerName, n, list,
			strings.Repeat("x", n%4000), numbered(50))
		content, err := readContent(payload)
		if err != nil {
			t.Fatal(err)
		}
		id, err := a.issuers[0].judge(content, now, nil)
		if err == nil || id != nil { // it is for no audience
			t.Fatal("judged")
		}
		a.cache.add(sha256.Sum256([]byte(payload)),
			verified{&Identity{Issuer: issuerName, Subject: content.subject, Claims: content.Claims}, keys})
	}
	if grown := int(heap()) - int(before); grown > 32<<20 {
		t.Errorf("10,000 tokens have left %d MB", grown>>20)
	}
	if count, bytes := a.Remembered(); bytes > cacheBytes || bytes < cacheBytes*9/10 || count < 1000 {
		t.Errorf("%d tokens, %d bytes", count, bytes)
	}
	runtime.KeepAlive(a)
}

func TestLargeTokensAreNotRemembered(t *testing.T) {
	a := ready(t, allKeys(), nil)
	for size, want := range map[int]int{maxRemembered / 2: 1, maxRemembered: 1, maxToken/4*3 - 500: 1} {
		if got := reason(a, good("ed25519", object{"pad": strings.Repeat("x", size)})); got != "" {
			t.Fatal(got)
		}
		if n, _ := a.Remembered(); n > want {
			t.Errorf("%d remembered after one of %d bytes", n, size)
		}
	}
}

func TestTokensHaveAtMostTheBytesOfTheConfiguration(t *testing.T) {
	a := ready(t, allKeys(), nil)
	token := good("ed25519", object{"groups": strings.Repeat("x", 30<<10)})
	for most, want := range map[int]outcome.Reason{len(token): "", len(token) - 1: outcome.Malformed} {
		v, err := New(settings(nil), most, a.Keys, nil)
		if err != nil {
			t.Fatal(err)
		}
		v.now = a.Verifier.now
		_, err = v.Verify(t.Context(), Credential{Token: token}, nil)
		if got := reasonOf(err); got != want {
			t.Errorf("at most %d bytes: %q", most, got)
		}
		if want != "" && !strings.Contains(err.Error(), "limits.maxTokenBytes") {
			t.Errorf("the refusal does not name the key: %v", err)
		}
	}
}

// heap returns the bytes that are in use after a collection.
func heap() uint64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// The bytes of the cache are those of its entries, however they come and go.
func TestCacheCountsWhatItHolds(t *testing.T) {
	c := newCache()
	entry := func(size int) verified {
		return verified{identity: &Identity{Claims: Claims{json: strings.Repeat("x", size)}}}
	}
	key := func(n int) digest { return sha256.Sum256(fmt.Append(nil, n)) }
	for n := range 30 {
		c.add(key(n%20), entry(1000*n))
	}
	want := 0
	for _, k := range c.lru.Keys() {
		v, _ := c.lru.Peek(k)
		want += v.memory()
	}
	if tokens, bytes := c.size(); tokens != 20 || bytes != want {
		t.Errorf("%d tokens, %d bytes, expected %d", tokens, bytes, want)
	}
	c.add(key(100), entry(cacheBytes-1000))
	if tokens, bytes := c.size(); tokens != 1 || bytes > cacheBytes {
		t.Errorf("%d tokens, %d bytes", tokens, bytes)
	}
	if _, ok := c.get(key(100)); !ok {
		t.Error("the newest is gone")
	}
}

// A stranger's token costs about what its signature costs, however much JSON it holds. The ratio to
// a small one of the same algorithm is what go test -bench Stranger shows: of the fastest of each,
// because a busy machine adds to both.
func BenchmarkStranger(b *testing.B) {
	a := ready(b, allKeys(), nil)
	for _, key := range []string{"rsa1", "ec256", "ed25519"} {
		tokens := strangers(key)
		maps.Copy(tokens, oddStrangers(key))
		for name, token := range tokens {
			b.Run(ownAlg[key]+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				small, large := time.Hour, time.Hour
				for b.Loop() {
					small, large = min(small, refusal(b, a, tokens["small"])), min(large, refusal(b, a, token))
				}
				b.ReportMetric(float64(large)/float64(small), "ratio")
			})
		}
	}
}

// refusal returns how long it takes to refuse a token.
func refusal(t testing.TB, a *gate, token string) time.Duration {
	began := time.Now()
	if reason(a, token) == "" {
		t.Fatal("it is accepted")
	}
	return time.Since(began)
}

// strangers are tokens under a false signature: a small one and large ones of several kinds.
func strangers(key string) map[string]string {
	forged := func(members string) string {
		token := mint(key, object{"alg": ownAlg[key], "kid": key},
			`{"iss":"`+issuerName+`","sub":"u","aud":"agents","exp":4102444800`+members+`}`)
		return token[:len(token)-8] + "AAAAAAAA"
	}
	return map[string]string{
		"small":   forged(""),
		"members": forged(numbered(maxMembers - 10)),
		"list":    forged(`,"a":[` + strings.Repeat("1,", 5500) + `1]`),
		"objects": forged(`,"a":[` + strings.Repeat("{},", 3600) + `{}]`),
		"escapes": forged(`,"a":"` + strings.Repeat(`\u00e9`, 1850) + `"`),
		"string":  forged(`,"a":"` + strings.Repeat("x", 11<<10) + `"`),
		"strings": forged(`,"a":[` + strings.Repeat(`"a",`, 2700) + `""]`),
		"quotes":  forged(`,"a":"` + strings.Repeat(`\"`, 5500) + `"`),
	}
}

// oddStrangers are large ones that are refused for their form, or for what a small one is.
func oddStrangers(key string) map[string]string {
	forged := func(header object, payload string) string {
		token := mint(key, header, payload)
		return token[:len(token)-8] + "AAAAAAAA"
	}
	plain := `{"iss":"` + issuerName + `","sub":"u","aud":"agents","exp":4102444800`
	long := object{"alg": ownAlg[key], "kid": key}
	for n := range 700 {
		long[fmt.Sprintf("x%06d", n)] = n
	}
	own := object{"alg": ownAlg[key], "kid": key}
	return map[string]string{
		"deep":          forged(own, plain+`,"a":`+strings.Repeat("[", 5500)+strings.Repeat("]", 5500)+"}"),
		"names":         forged(own, plain+strings.Repeat(`,"a":""`, 1600)+"}"),
		"iss at last":   forged(own, `{"a":"`+strings.Repeat(`\"`, 5500)+`",`+plain[1:]+"}"),
		"iss again":     forged(own, plain+strings.Repeat(`,"a":{"iss":"b"}`, 700)+"}"),
		"long header":   forged(long, plain+"}"),
		"long kid":      forged(object{"alg": ownAlg[key], "kid": strings.Repeat("k", 11<<10)}, plain+"}"),
		"a long issuer": forged(own, `{"iss":"`+strings.Repeat("x", 11<<10)+`"}`),
	}
}

// What holds on a busy machine too: nothing is built of the claims of a stranger.
func TestA27FalseSignatureCostsNoClaims(t *testing.T) {
	a := ready(t, allKeys(), nil)
	tokens := strangers("ed25519")
	small := testing.AllocsPerRun(100, func() { reason(a, tokens["small"]) })
	for name, token := range tokens {
		if n := testing.AllocsPerRun(100, func() { reason(a, token) }); n > small {
			t.Errorf("%s: %v allocations, %v for a small token", name, n, small)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 100 {
			reason(a, token)
		}
		runtime.ReadMemStats(&after)
		if n := int64(after.TotalAlloc-before.TotalAlloc) / 100; n > 8<<10+3*int64(len(token)) {
			t.Errorf("%s: %d bytes for a token of %d", name, n, len(token))
		}
	}
}
