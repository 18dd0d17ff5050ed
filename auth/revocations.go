package auth

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// Revocation bars tokens of one issuer until a time. It names them by one of Subject, JTI and SID,
// or by IssuedBefore alone, which may also stand beside Subject.
type Revocation struct {
	// ID names the revocation. It follows from what is revoked: the same is revoked only once.
	ID string `json:"id"`
	// Issuer is the issuer of the tokens. JTI and SID are their claims jti and sid; Subject is
	// their principal or their claim sub, where those differ.
	Issuer  string `json:"issuer"`
	Subject string `json:"subject,omitempty"`
	JTI     string `json:"jti,omitempty"`
	SID     string `json:"sid,omitempty"`
	// IssuedBefore bars only tokens whose iat is before it, or missing. Zero: iat does not matter.
	IssuedBefore time.Time `json:"issuedBefore,omitzero"`
	// Until is when the revocation ends.
	Until time.Time `json:"until"`
	// Logout reports whether it comes from a logout at the issuer and not from an operator.
	Logout bool `json:"logout,omitempty"`
	// Created is when it was made, Changed when it was made, made again or lifted: of what two
	// gateways know, the newest change is true. Add and Lift set them.
	Created time.Time `json:"created"`
	Changed time.Time `json:"changed"`
	// Lifted reports whether it was ended before its time. It is remembered until then, so that
	// an older change that arrives late does not put it into force again.
	Lifted bool `json:"lifted,omitempty"`
}

// maxName is how long a name in a revocation may be, in bytes: longer than any that an issuer
// gives.
const maxName = 2048

// defaultUntil is how long a revocation bars tokens if it does not say.
const defaultUntil = 24 * time.Hour

// ParseRevocation reads a revocation that is asked for at a time: one JSON object of issuer,
// subject, jti, sid, issuedBefore and until, the last two in RFC 3339. An empty name is an error:
// a script whose variable was empty must not bar all tokens of an issuer.
func ParseRevocation(text string, now time.Time) (Revocation, error) {
	v := Revocation{Until: now.Add(defaultUntil)}
	names := map[string]*string{"issuer": &v.Issuer, "subject": &v.Subject, "jti": &v.JTI, "sid": &v.SID}
	dates := map[string]*time.Time{"issuedBefore": &v.IssuedBefore, "until": &v.Until}
	err := scanUnique(text, func(m member) error {
		name, date := names[m.name], dates[m.name]
		if name == nil && date == nil {
			return fmt.Errorf("unknown key %s: known are issuer, subject, jti, sid, issuedBefore and until", outcome.Quote(m.name))
		}
		value, err := stringOf(m.name, m.value)
		switch {
		case err != nil:
			return err
		case value == "":
			return errors.New(m.name + " is empty")
		case name != nil:
			*name = value
			return nil
		}
		t, err := time.Parse(time.RFC3339, value)
		if *date = t.UTC(); err != nil || date.Year() < 0 || date.Year() > 9999 { // by its offset; JSON has no text for it
			return fmt.Errorf("%s is not a time of RFC 3339, such as %s", m.name, now.UTC().Format(time.RFC3339))
		}
		return nil
	})
	if err == nil {
		err = v.fault(now)
	}
	return v, err
}

// fault returns what is wrong with a revocation that is to be in force at a time, or nil.
func (v Revocation) fault(now time.Time) error {
	named := 0
	for _, name := range []string{v.Issuer, v.Subject, v.JTI, v.SID} {
		if len(name) > maxName {
			return errors.New("a name is too long")
		}
	}
	for _, name := range []string{v.Subject, v.JTI, v.SID} {
		named += min(len(name), 1)
	}
	switch {
	case v.Issuer == "":
		return errors.New("issuer is missing")
	case named > 1:
		return errors.New("more than one of subject, jti and sid: make a revocation of each")
	case named == 0 && v.IssuedBefore.IsZero():
		return errors.New("none of subject, jti, sid and issuedBefore")
	case !v.IssuedBefore.IsZero() && v.Subject == "" && named > 0:
		return errors.New("issuedBefore stands alone or beside subject")
	case !v.Until.After(now):
		return errors.New("until is not in the future")
	}
	return nil
}

// Bars reports whether the revocation, once in force, is about a token with this identity.
func (v Revocation) Bars(id *Identity) bool {
	return id != nil && v.Issuer == id.Issuer && slices.Contains(targetsOf(id), v.target()) && v.covers(id)
}

// covers reports whether the revocation is about a token of those that are found at its target: by
// iat, for which a token without one has the zero time, and if it is a logout by sub itself,
// because the issuer knows nothing of principalClaim.
func (v Revocation) covers(id *Identity) bool {
	return (v.IssuedBefore.IsZero() || id.issued().Before(v.IssuedBefore)) &&
		(!v.Logout || v.Subject == "" || v.Subject == id.text("sub"))
}

// inForce reports whether the revocation bars anything at a time.
func (v Revocation) inForce(now time.Time) bool { return !v.Lifted && now.Before(v.Until) }

// id returns the ID that follows from what is revoked. A later logout of the same subject takes
// the place of the one before: users log out again and again.
func (v Revocation) id() string {
	before := ""
	switch {
	case v.Logout:
		before = "logout"
	case !v.IssuedBefore.IsZero():
		before = v.IssuedBefore.UTC().Format(time.RFC3339Nano)
	}
	what, _ := json.Marshal([]string{v.Issuer, v.Subject, v.JTI, v.SID, before}) // strings: cannot fail
	sum := sha256.Sum256(what)
	return hex.EncodeToString(sum[:16])
}

// target is where a revocation is looked for: by one claim of one issuer's tokens.
type target struct{ issuer, claim, value string }

func (v Revocation) target() target {
	switch {
	case v.Subject != "":
		return target{v.Issuer, "sub", v.Subject}
	case v.JTI != "":
		return target{v.Issuer, "jti", v.JTI}
	case v.SID != "":
		return target{v.Issuer, "sid", v.SID}
	}
	return target{v.Issuer, "iat", ""}
}

// targetsOf returns where the revocations of a token are.
func targetsOf(id *Identity) []target {
	at := make([]target, 0, 5)
	at = append(at, target{id.Issuer, "sub", id.Subject}, target{id.Issuer, "iat", ""})
	for _, claim := range []string{"sub", "jti", "sid"} {
		if value := id.text(claim); value != "" {
			at = append(at, target{id.Issuer, claim, value})
		}
	}
	return at
}

// text returns a claim that is a string, or "".
func (id *Identity) text(claim string) string {
	s, _ := stringOf(claim, id.Claims.raw(claim))
	return s
}

// issued returns the claim iat; zero when it is missing.
func (id *Identity) issued() time.Time {
	t, _ := dateOf("iat", id.Claims.raw("iat")) // cannot fail: the token was verified
	return t
}

// ErrTooManyRevocations is why there is no room for one more.
var ErrTooManyRevocations = errors.New("too many revocations: raise revocations.max, or wait until some end")

// Revocations are about tokens that are refused although they are valid. They live as long as the
// process, and longer with a file (Keep). The methods may be used concurrently; a nil *Revocations
// bars nothing.
//
// What changes them elsewhere, in another replica, comes in by Apply, and All tells what to say
// there.
type Revocations struct {
	max int
	now func() time.Time

	change sync.Mutex // held by the change under way, so that the file has the order of the memory
	file   *ledger    // guarded by change. Nil: they are forgotten with the process

	live atomic.Int64 // those that are not lifted: 0 spares the lock

	mu     sync.RWMutex
	byID   map[string]*Revocation // lifted ones too
	lookup map[target][]*Revocation
	next   time.Time // not after the first Until of all
}

// NewRevocations returns an empty set of at most max.
func NewRevocations(max int) *Revocations {
	return &Revocations{max: max, now: time.Now, byID: map[string]*Revocation{}, lookup: map[target][]*Revocation{}}
}

// Add puts a revocation into force and returns it as it is then. If the same is revoked already,
// the later end counts. After an error of the file it is in force all the same; after
// ErrTooManyRevocations it is not.
func (r *Revocations) Add(v Revocation) (Revocation, error) {
	r.change.Lock()
	defer r.change.Unlock()
	now := r.now().UTC()
	v.ID, v.Created, v.Changed, v.Lifted = v.id(), now, now, false
	v.Until, v.IssuedBefore = v.Until.UTC(), v.IssuedBefore.UTC()
	if old, known := r.get(v.ID); known {
		v.Changed = changeOf(old, now)
		if old.inForce(now) {
			v.Created = old.Created
			v.Until = later(v.Until, old.Until)
			v.IssuedBefore = later(v.IssuedBefore, old.IssuedBefore)
		}
	}
	if !r.put(v) {
		return v, ErrTooManyRevocations
	}
	return v, r.file.add(v, r)
}

// Lift ends a revocation before its time. It returns it, and reports whether it was in force.
func (r *Revocations) Lift(id string) (Revocation, bool, error) {
	r.change.Lock()
	defer r.change.Unlock()
	now := r.now().UTC()
	v, known := r.get(id)
	if !known || !v.inForce(now) {
		return v, false, nil
	}
	v.Lifted, v.Changed = true, changeOf(v, now)
	r.put(v)
	return v, true, r.file.add(v, r)
}

// Apply takes a change over that was made elsewhere, and reports whether it is news: an older
// change of the same revocation is none, and neither is one that is over. After an error of the
// file it is taken over all the same.
func (r *Revocations) Apply(v Revocation) (news bool, err error) {
	r.change.Lock()
	defer r.change.Unlock()
	if news, err = r.merge(v); !news || err != nil {
		return news, err
	}
	return true, r.file.add(v, r)
}

// merge is Apply without the file.
func (r *Revocations) merge(v Revocation) (news bool, err error) {
	if err := v.fault(time.Time{}); err != nil {
		return false, err
	}
	if v.ID != v.id() {
		return false, errors.New("the id is not that of what is revoked")
	}
	old, known := r.get(v.ID)
	if !r.now().Before(v.Until) || known && !v.Changed.After(old.Changed) {
		return false, nil
	}
	if !r.put(v) {
		return false, ErrTooManyRevocations
	}
	return true, nil
}

// Barring returns the ID of a revocation that bars tokens with this identity now, or "".
func (r *Revocations) Barring(id *Identity) string {
	if r == nil || id == nil || r.live.Load() == 0 {
		return ""
	}
	now := r.now()
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, t := range targetsOf(id) {
		for _, v := range r.lookup[t] {
			if v.inForce(now) && v.covers(id) {
				return v.ID
			}
		}
	}
	return ""
}

// Get returns a revocation that is in force.
func (r *Revocations) Get(id string) (Revocation, bool) {
	v, known := r.get(id)
	return v, known && v.inForce(r.now())
}

// Len returns how many revocations are in force.
func (r *Revocations) Len() (n int) {
	now := r.now()
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, v := range r.byID {
		if v.inForce(now) {
			n++
		}
	}
	return n
}

// List returns the revocations in force, the oldest first.
func (r *Revocations) List() []Revocation {
	now := r.now()
	return slices.DeleteFunc(r.All(), func(v Revocation) bool { return !v.inForce(now) })
}

// All returns the revocations whose end has not come, also those that were lifted, the oldest
// first.
func (r *Revocations) All() []Revocation {
	now := r.now()
	r.mu.RLock()
	all := make([]Revocation, 0, len(r.byID))
	for _, v := range r.byID {
		if now.Before(v.Until) {
			all = append(all, *v)
		}
	}
	r.mu.RUnlock()
	slices.SortFunc(all, func(a, b Revocation) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	return all
}

func (r *Revocations) get(id string) (Revocation, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if v, known := r.byID[id]; known {
		return *v, true
	}
	return Revocation{}, false
}

// HasRoom reports whether Add would find room for v.
func (r *Revocations) HasRoom(v Revocation) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.makeRoom(v.id())
}

// makeRoom forgets what must go before a revocation is put, and reports whether there is room.
// r.mu is held.
func (r *Revocations) makeRoom(id string) bool {
	if now := r.now(); !now.Before(r.next) {
		r.forget(func(old *Revocation) bool { return !now.Before(old.Until) })
	}
	if r.byID[id] != nil {
		return true
	}
	if len(r.byID) >= r.max && int(r.live.Load()) < len(r.byID) {
		r.forget(func(old *Revocation) bool { return old.Lifted }) // a new one is worth more than the memory of these
	}
	return len(r.byID) < r.max
}

// put adds v or replaces it, and reports whether there was room.
func (r *Revocations) put(v Revocation) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.makeRoom(v.ID) {
		return false
	}
	old := r.byID[v.ID]
	if old == nil {
		old = &Revocation{Lifted: true} // it does not count yet
		r.byID[v.ID] = old
		r.lookup[v.target()] = append(r.lookup[v.target()], old)
	}
	r.live.Add(v.weight() - old.weight())
	if r.next.IsZero() || v.Until.Before(r.next) {
		r.next = v.Until
	}
	*old = v
	return true
}

// weight is what v adds to those that are live.
func (v *Revocation) weight() int64 {
	if v.Lifted {
		return 0
	}
	return 1
}

// forget removes the revocations of which over is true. r.mu is held.
func (r *Revocations) forget(over func(*Revocation) bool) {
	r.next = time.Time{}
	for id, v := range r.byID {
		if !over(v) {
			if r.next.IsZero() || v.Until.Before(r.next) {
				r.next = v.Until
			}
			continue
		}
		r.live.Add(-v.weight())
		delete(r.byID, id)
		t := v.target()
		if r.lookup[t] = slices.DeleteFunc(r.lookup[t], func(o *Revocation) bool { return o == v }); len(r.lookup[t]) == 0 {
			delete(r.lookup, t)
		}
	}
}

// changeOf returns when a change of v is made: now, or just after the last one if a clock was
// wrong.
func changeOf(v Revocation, now time.Time) time.Time {
	return later(now, v.Changed.Add(time.Nanosecond))
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
