package auth

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
)

// Options are what Keys need beside the configuration. The zero value is usable.
type Options struct {
	// Log takes a line when an issuer's keys change, and when they cannot be fetched or can be
	// again. Nil: nothing is logged.
	Log *slog.Logger
	// Transport carries the requests for keys. Nil: one that follows the configuration's fetch.
	Transport http.RoundTripper
	// ClientKeysChanged is called after the file of client keys has become another, so that the
	// sessions of callers with keys are judged again. Nil: nothing is called.
	ClientKeysChanged func()
}

// Keys are the key sets of the issuers, each with a loop that keeps it fresh. They outlive the
// rules: a Verifier that New makes for a changed configuration finds the sets of its issuers here,
// with their keys, also if the times of their fetches have changed. A set belongs to one issuer
// and one place where its keys are, and is never pooled with another's: a shared set would let any
// issuer sign for all. The methods may be used concurrently.
type Keys struct {
	options Options
	changed chan struct{} // tells Run that sets came or went

	mu    sync.Mutex
	sets  []*keySet        // in the order in which they came
	files []*clientKeyFile // likewise
}

// NewKeys returns Keys without any set. New adds the sets that a configuration needs; Run or
// Refresh fetch them.
func NewKeys(o Options) *Keys {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ClientKeysChanged == nil {
		o.ClientKeysChanged = func() {}
	}
	return &Keys{options: o, changed: make(chan struct{}, 1)}
}

// Run keeps every set fresh until ctx ends, sets that come later too, and waits for all that it
// has started. It is called once.
func (k *Keys) Run(ctx context.Context) {
	running := map[runner]context.CancelFunc{}
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		all := k.runners()
		for _, s := range all {
			if running[s] == nil {
				own, stop := context.WithCancel(ctx)
				running[s] = stop
				wg.Go(func() { s.run(own) })
			}
		}
		for s, stop := range running {
			if !slices.Contains(all, s) {
				stop()
				delete(running, s)
			}
		}
		select {
		case <-k.changed:
		case <-ctx.Done():
			for _, stop := range running {
				stop()
			}
			return
		}
	}
}

// Refresh fetches every set once, all at the same time. The error joins one for each issuer whose
// keys could not be fetched.
func (k *Keys) Refresh(ctx context.Context) error {
	sets := k.all()
	errs := make([]error, len(sets))
	var wg sync.WaitGroup
	for n, s := range sets {
		wg.Go(func() { errs[n] = s.fetch(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Await waits until every set that v refers to was fetched once, or was tried to be, or until
// ctx ends. Run must be running: it does the fetching. A set that was not fetched by then does
// not make v unready: v takes over from another verifier, whose issuers must not suffer for a
// new one.
func (k *Keys) Await(ctx context.Context, v *Verifier) {
	for _, i := range v.issuers {
		i.keys.await(ctx)
	}
}

// Keep drops every set that none of these verifiers refers to. Call it after a configuration was
// replaced, and after one was rejected for which New had added sets already. A verifier that still
// judges with a dropped set keeps the keys that it has; they are not fetched any more.
func (k *Keys) Keep(verifiers ...*Verifier) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sets = slices.DeleteFunc(k.sets, func(s *keySet) bool {
		return !slices.ContainsFunc(verifiers, func(v *Verifier) bool { return v.refersTo(s) })
	})
	k.files = slices.DeleteFunc(k.files, func(f *clientKeyFile) bool {
		return !slices.ContainsFunc(verifiers, func(v *Verifier) bool { return v.clients != nil && v.clients.file == f })
	})
	k.notify()
}

// clientKeys returns the file of client keys with that name, which is added if there is none yet;
// read is what was read of it just now.
func (k *Keys) clientKeys(name string, read *clientKeySet) *clientKeyFile {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := slices.IndexFunc(k.files, func(f *clientKeyFile) bool { return f.name == name }); n >= 0 {
		k.files[n].set.Store(read)
		return k.files[n]
	}
	f := &clientKeyFile{name: name, options: k.options}
	f.set.Store(read)
	k.files = append(k.files, f)
	k.notify()
	return f
}

// runner is what Run keeps fresh.
type runner interface{ run(context.Context) }

// runners returns all that is to be kept fresh now.
func (k *Keys) runners() (all []runner) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.sets {
		all = append(all, s)
	}
	for _, f := range k.files {
		all = append(all, f)
	}
	return all
}

// set returns the set for a source, which is added if there is none yet; first is what was read
// of it already, or nil.
func (k *Keys) set(from source, first *jwks) *keySet {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := slices.IndexFunc(k.sets, func(s *keySet) bool { return s.source == from }); n >= 0 {
		return k.sets[n]
	}
	s := newKeySet(from, first, k.options)
	if n := slices.IndexFunc(k.sets, func(s *keySet) bool { return s.sameKeys(from) }); first == nil && n >= 0 {
		s.inherit(k.sets[n])
	}
	k.sets = append(k.sets, s)
	k.notify()
	return s
}

// all returns the sets that are there now.
func (k *Keys) all() []*keySet {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.sets)
}

// notify wakes Run, if it runs.
func (k *Keys) notify() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}
