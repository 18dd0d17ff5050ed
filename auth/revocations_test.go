package auth

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

// revocationsOf returns a set of at most max whose clock the test moves.
func revocationsOf(max int) (*Revocations, *time.Time) {
	clock := now
	r := NewRevocations(max)
	r.now = func() time.Time { return clock }
	return r, &clock
}

// asked returns the revocation of a body that has no mistake.
func asked(t testing.TB, body string) Revocation {
	t.Helper()
	v, err := ParseRevocation(body, now)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return v
}

// caller returns the identity of a token with changes to its claims.
func caller(t testing.TB, changes object) *Identity {
	t.Helper()
	id, err := ready(t, allKeys(), nil).Verify(t.Context(), Credential{Token: good("rsa1", changes)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestMistakesInARevocationAreNamed(t *testing.T) {
	for body, want := range map[string]string{
		``:                            "not JSON",
		`null`:                        "not a JSON object",
		`[]`:                          "not a JSON object",
		`{}`:                          "issuer is missing",
		`{"issuer":"i"} {}`:           "not JSON",
		`{"issuer":"i"}`:              "none of subject, jti, sid and issuedBefore",
		`{"subject":"s"}`:             "issuer is missing",
		`{"issuer":"","subject":"s"}`: "issuer is empty",
		`{"issuer":"i","subject":"","issuedBefore":"` + rfc(now) + `"}`: "subject is empty",
		`{"issuer":"i","subject":"s","jti":"j"}`:                        "more than one of subject, jti and sid",
		`{"issuer":"i","sid":"s","jti":"j"}`:                            "more than one of subject, jti and sid",
		`{"issuer":"i","jti":"j","issuedBefore":"` + rfc(now) + `"}`:    "issuedBefore stands alone or beside subject",
		`{"issuer":"i","sid":"j","issuedBefore":"` + rfc(now) + `"}`:    "issuedBefore stands alone or beside subject",
		`{"issuer":"i","subject":5}`:                                    "subject is not a string",
		`{"issuer":"i","subject":null}`:                                 "subject is not a string",
		`{"issuer":"i","subject":"s","until":1764144000}`:               "until is not a string",
		`{"issuer":"i","subject":"s","until":"tomorrow"}`:               "until is not a time of RFC 3339",
		`{"issuer":"i","subject":"s","until":"2030-01-01"}`:             "until is not a time of RFC 3339",
		`{"issuer":"i","subject":"s","until":"` + rfc(now) + `"}`:       "until is not in the future",
		`{"issuer":"i","subject":"s","Until":"` + rfc(now) + `"}`:       "unknown key",
		`{"issuer":"i","sub":"s"}`:                                      `unknown key "sub"`,
		`{"issuer":"i","subject":"s","subject":"t"}`:                    "twice",
		`{"issuer":"i","subject":"` + strings.Repeat("s", 2049) + `"}`:  "a name is too long",
		`{"issuer":"i","subject":"` + "\xff" + `"}`:                     "not UTF-8",
	} {
		if _, err := ParseRevocation(body, now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
	v := asked(t, `{"issuer":"i","subject":"s"}`)
	if !v.Until.Equal(now.Add(24 * time.Hour)) {
		t.Errorf("until %v by default", v.Until)
	}
	v = asked(t, `{"issuer":"i","subject":"s","until":"2999-01-01T01:00:00.5+01:00","issuedBefore":"2020-01-01T00:00:00Z"}`)
	if v.Until.Unix() != time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC).Unix() || v.IssuedBefore.Year() != 2020 {
		t.Errorf("%+v", v)
	}
}

func rfc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func TestWhomARevocationBars(t *testing.T) {
	alice := caller(t, object{"sub": "alice", "jti": "j1", "sid": "s1"}) // issued 10 s ago
	undated := caller(t, object{"sub": "alice", "iat": nil})
	odd := caller(t, object{"sub": "alice", "sid": 5})
	for body, want := range map[string]string{ // a, u, o: alice, undated, odd
		`"subject":"alice"`:                 "auo",
		`"subject":"Alice"`:                 "",
		`"subject":"bob"`:                   "",
		`"jti":"j1"`:                        "a",
		`"jti":"s1"`:                        "",
		`"sid":"s1"`:                        "a",
		`"sid":"5"`:                         "",
		`"issuedBefore":"` + rfc(now) + `"`: "auo",
		`"issuedBefore":"` + rfc(now.Add(-10*time.Second)) + `"`:                          "u", // issued at, not before
		`"issuedBefore":"` + rfc(now.Add(-9*time.Second)) + `"`:                           "auo",
		`"subject":"alice","issuedBefore":"` + rfc(now.Add(-time.Hour)) + `"`:             "u",
		`"subject":"bob","issuedBefore":"` + rfc(now) + `"`:                               "",
		`"subject":"alice","issuedBefore":"` + rfc(now) + `"`:                             "auo",
		`"subject":"alice","until":"` + rfc(now.Add(time.Second)) + `"`:                   "auo",
		`"issuedBefore":"9999-12-31T23:59:59Z","until":"` + rfc(now.Add(time.Hour)) + `"`: "auo",
	} {
		for _, issuer := range []string{issuerName, issuerName + "/"} {
			r, clock := revocationsOf(10)
			v, err := r.Add(asked(t, `{"issuer":"`+issuer+`",`+body+`}`))
			if err != nil {
				t.Fatal(err)
			}
			barred := ""
			for name, id := range map[string]*Identity{"a": alice, "u": undated, "o": odd} {
				by := r.Barring(id)
				if by != "" && by != v.ID || v.Bars(id) != (by != "") {
					t.Errorf("%s: %s is barred by %q, and alone: %v", body, name, by, v.Bars(id))
				}
				if by != "" {
					barred += name
				}
			}
			if issuer != issuerName {
				want = ""
			}
			if len(barred) != len(want) || strings.Trim(barred, want) != "" && barred != "" {
				t.Errorf("%s of %s: bars %q, want %q", body, issuer, barred, want)
			}
			*clock = v.Until
			if r.Barring(alice) != "" || r.Barring(undated) != "" || len(r.List()) != 0 {
				t.Errorf("%s: still in force at its end", body)
			}
		}
	}
}

// Logout tokens name the claim sub, operators the subject that /sessions shows.
func TestASubjectIsThePrincipalOrTheClaimSub(t *testing.T) {
	a := ready(t, allKeys(), func(c *config.Authentication) { c.JWT.PrincipalClaim = []string{"email"} })
	id, err := a.Verify(t.Context(), Credential{Token: good("rsa1", object{"email": "alice@example.com"})}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for subject, want := range map[string]bool{"alice@example.com": true, "user-1": true, "bob@example.com": false} {
		r, _ := revocationsOf(10)
		r.Add(Revocation{Issuer: issuerName, Subject: subject, Until: now.Add(time.Hour)})
		if got := r.Barring(id) != ""; got != want {
			t.Errorf("%s: %v", subject, got)
		}
	}
}

func TestRevokedTokensAreRefused(t *testing.T) {
	a := ready(t, allKeys(), nil)
	a.revoked, _ = revocationsOf(10)
	token := good("rsa1", object{"jti": "j1"})
	id, err := a.Verify(t.Context(), Credential{Token: token}, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := a.revoked.Add(asked(t, `{"issuer":"`+issuerName+`","jti":"j1"}`))
	_, admitted := a.Admits(id)
	for room, err := range map[string]error{"Admits": admitted, "Unrevoked": a.Unrevoked(id)} {
		if reasonOf(err) != outcome.Revoked {
			t.Errorf("%s: %v", room, err)
		}
	}
	_, err = a.Verify(t.Context(), Credential{Token: token}, nil) // a remembered one
	if reasonOf(err) != outcome.Revoked || !strings.Contains(err.Error(), v.ID) || strings.Contains(err.Error(), token) {
		t.Error(err)
	}
	if got := reason(a, good("rsa1", object{"jti": "j1", "exp": now.Unix() - 999})); got != outcome.Expired {
		t.Errorf("an expired token is %s", got)
	}
	if got := reason(a, good("rsa1", object{"jti": "j2"})); got != "" {
		t.Errorf("another token is %s", got)
	}
	if _, there, err := a.revoked.Lift(v.ID); !there || err != nil {
		t.Fatal(there, err)
	}
	if got := reason(a, token); got != "" {
		t.Errorf("after it was lifted: %s", got)
	}
	if a.Knows(issuerName) != nil || reasonOf(a.Knows(issuerName+"/")) != outcome.WrongIssuer {
		t.Error("an issuer is not known, or one that is not configured is")
	}
}

func TestTheSameIsRevokedOnce(t *testing.T) {
	r, clock := revocationsOf(10)
	add := func(until time.Duration) Revocation {
		v, err := r.Add(Revocation{Issuer: "i", Subject: "s", Until: now.Add(until)})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	first := add(time.Hour)
	*clock = now.Add(time.Minute)
	second := add(30 * time.Minute)
	if second.ID != first.ID || !second.Until.Equal(first.Until) || !second.Created.Equal(first.Created) || len(r.List()) != 1 {
		t.Errorf("%+v, then %+v", first, second)
	}
	r.Lift(first.ID)
	if _, there, _ := r.Lift(first.ID); there {
		t.Error("lifted twice")
	}
	if third := add(30 * time.Minute); !third.Until.Equal(now.Add(30*time.Minute)) || !third.Created.Equal(*clock) || len(r.List()) != 1 {
		t.Errorf("after it was lifted: %+v", third)
	}
}

// A user who logs in and out all day must not fill the set.
func TestALaterLogoutTakesThePlaceOfTheOneBefore(t *testing.T) {
	r, _ := revocationsOf(10)
	logout := func(before time.Duration) Revocation {
		v, err := r.Add(Revocation{Issuer: "i", Subject: "s", Logout: true, IssuedBefore: now.Add(before), Until: now.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	logout(time.Minute)
	if r.Len() != 1 {
		t.Errorf("%d in force", r.Len())
	}
	if v := logout(0); !v.IssuedBefore.Equal(now.Add(time.Minute)) { // an older one that comes late
		t.Errorf("%+v", v)
	}
	logout(2 * time.Minute)
	if n := len(r.All()); n != 1 {
		t.Errorf("%d revocations", n)
	}
}

func TestTheNewestChangeIsTrue(t *testing.T) {
	here, clock := revocationsOf(10)
	there, _ := revocationsOf(10)
	made, _ := here.Add(Revocation{Issuer: "i", Subject: "s", Until: now.Add(time.Hour)})
	*clock = now.Add(-time.Minute) // set back: a change is newer than the one before all the same
	lifted, was, _ := here.Lift(made.ID)
	if !was || !lifted.Changed.After(made.Changed) {
		t.Fatalf("%+v, then %+v", made, lifted)
	}
	apply := func(v Revocation, want bool) {
		t.Helper()
		if news, err := there.Apply(v); err != nil || news != want {
			t.Errorf("%+v: news %v, %v", v, news, err)
		}
	}
	apply(lifted, true) // overtakes what it lifts
	apply(made, false)
	apply(lifted, false)
	if len(there.List()) != 0 || len(there.All()) != 1 {
		t.Errorf("in force: %+v", there.List())
	}
	again, _ := here.Add(Revocation{Issuer: "i", Subject: "s", Until: now.Add(time.Hour)})
	apply(again, true)
	if _, there := there.Get(made.ID); !there || !again.Changed.After(lifted.Changed) {
		t.Errorf("%+v is not in force", again)
	}
	over := made
	over.Subject, over.Until = "t", now
	over.ID = over.id()
	apply(over, false)
	for _, bad := range []Revocation{{}, {ID: made.ID, Issuer: "i", Subject: "other", Until: now.Add(time.Hour)}} {
		if news, err := there.Apply(bad); err == nil || news {
			t.Errorf("%+v was applied", bad)
		}
	}
}

func TestRevocationsAreBounded(t *testing.T) {
	r, clock := revocationsOf(3)
	add := func(subject string, until time.Duration) (Revocation, error) {
		return r.Add(Revocation{Issuer: "i", Subject: subject, Until: now.Add(until)})
	}
	first, _ := add("a", time.Minute)
	add("b", time.Hour)
	add("c", time.Hour)
	if _, err := add("d", time.Hour); !errors.Is(err, ErrTooManyRevocations) {
		t.Fatal(err)
	}
	elsewhere := Revocation{Issuer: "i", JTI: "d", Until: now.Add(time.Hour)}
	elsewhere.ID = elsewhere.id()
	if _, err := r.Apply(elsewhere); !errors.Is(err, ErrTooManyRevocations) {
		t.Error(err)
	}
	if _, err := add("b", 2*time.Hour); err != nil {
		t.Errorf("one that is there already: %v", err)
	}
	r.Lift(first.ID)
	if _, err := add("d", time.Hour); err != nil {
		t.Errorf("one was lifted: %v", err)
	}
	*clock = now.Add(90 * time.Minute)
	if _, err := add("e", 3*time.Hour); err != nil || len(r.All()) != 2 || len(r.lookup) != 2 || len(r.byID) != 2 {
		t.Errorf("two have ended: %v, %+v", err, r.All())
	}
	*clock = now.Add(4 * time.Hour)
	add("f", 5*time.Hour)
	*clock = now.Add(6 * time.Hour)
	r.put(Revocation{Lifted: true, ID: "x"})
	r.forget(func(v *Revocation) bool { return v.ID == "x" })
	if r.live.Load() != 0 || len(r.byID) != 0 || len(r.lookup) != 0 {
		t.Errorf("%d live, %d in all, %d targets: all have ended", r.live.Load(), len(r.byID), len(r.lookup))
	}
}

// The set is compared with a simple model after each of many random changes.
func TestRevocationsAreAsTheirModel(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	r, clock := revocationsOf(40)
	other, _ := revocationsOf(1000)
	model := map[string]Revocation{}
	var callers []*Identity
	for n := range 6 {
		callers = append(callers, caller(t, object{"sub": fmt.Sprint("u", n%3), "sid": fmt.Sprint("s", n), "jti": fmt.Sprint("j", n),
			"iat": now.Unix() - int64(n)}))
	}
	for step := range 1000 {
		*clock = clock.Add(time.Duration(random.IntN(3)) * time.Second)
		other.now = r.now
		v := Revocation{Issuer: issuerName, Until: clock.Add(time.Duration(1+random.IntN(60)) * time.Second)}
		switch random.IntN(4) {
		case 0:
			v.Subject = fmt.Sprint("u", random.IntN(4))
		case 1:
			v.SID = fmt.Sprint("s", random.IntN(7))
		case 2:
			v.JTI = fmt.Sprint("j", random.IntN(7))
		case 3:
			v.IssuedBefore = now.Add(-time.Duration(random.IntN(7)) * time.Second)
		}
		changed := Revocation{}
		switch random.IntN(3) {
		case 0:
			changed, _ = r.Add(v)
		case 1:
			changed, _ = other.Add(v)
			if news, err := r.Apply(changed); err != nil || !news {
				changed = Revocation{}
			}
		case 2:
			if all := r.List(); len(all) > 0 {
				changed, _, _ = r.Lift(all[random.IntN(len(all))].ID)
			}
		}
		if changed.ID != "" {
			model[changed.ID] = changed
		}
		for _, id := range callers {
			want := false
			for _, v := range model {
				want = want || v.inForce(*clock) && v.Bars(id)
			}
			if got := r.Barring(id) != ""; got != want {
				t.Fatalf("seed %d, step %d: %s is barred: %v, want %v", seed, step, id.Claims.JSON(), got, want)
			}
		}
	}
}

func TestRevocationsMayBeUsedConcurrently(t *testing.T) {
	r := NewRevocations(50)
	id := caller(t, nil)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for i := range 200 {
				v, err := r.Add(Revocation{Issuer: issuerName, SID: fmt.Sprint(n, i%10), Until: time.Now().Add(time.Hour)})
				if err != nil && !errors.Is(err, ErrTooManyRevocations) {
					t.Error(err)
				}
				r.Barring(id)
				r.List()
				r.Lift(v.ID)
			}
		})
	}
	wg.Wait()
	if n := len(r.List()); n != 0 || r.live.Load() != 0 {
		t.Errorf("%d are left, %d live", n, r.live.Load())
	}
}

func TestNoRevocationsBarNothing(t *testing.T) {
	var none *Revocations
	r, _ := revocationsOf(1)
	r.Add(Revocation{Issuer: issuerName, Subject: "user-1", Until: now.Add(time.Hour)})
	if none.Barring(caller(t, nil)) != "" || r.Barring(nil) != "" || (Revocation{}).Bars(nil) {
		t.Error("barred")
	}
}

func BenchmarkBarring(b *testing.B) {
	r, _ := revocationsOf(100_000)
	for n := range 100_000 {
		r.Add(Revocation{Issuer: issuerName, Subject: fmt.Sprint("user ", n), Until: now.Add(time.Hour)})
	}
	id := caller(b, object{"jti": "j", "sid": "s"})
	for b.Loop() {
		r.Barring(id)
	}
}

// A time that JSON cannot say would make every list of revocations fail.
func TestARevocationOfAYearWithoutATextIsRefused(t *testing.T) {
	for _, dates := range []string{
		`"until": "9999-12-31T23:59:59-23:59"`,
		`"issuedBefore": "0000-01-01T00:00:00+23:59"`,
	} {
		v, err := ParseRevocation(`{"issuer": "i", "subject": "s", `+dates+`}`, time.Now())
		if err == nil || !strings.Contains(err.Error(), "is not a time of RFC 3339") {
			t.Errorf("%s: %+v, %v", dates, v, err)
		}
	}
}
