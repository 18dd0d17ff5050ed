package auth

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ledger is the file in which revocations outlive the process. Each line is one as a change has
// left it; the newest change counts. A line is added and synced before the change is answered.
// When the file holds far more lines than there are revocations it is written anew. A nil ledger
// keeps nothing.
type ledger struct {
	name  string
	f     *os.File
	lines int
	torn  bool // the last line may be a part of one
}

// spareLines is how many lines more than twice the revocations a ledger may have.
const spareLines = 1000

// ReadRevocations returns the revocations that a file holds, at most max; none if the file is
// missing or has no name. A last line that is cut off is dropped: its change was never answered.
// Any other mistake is an error, because a revocation that is not understood would not be
// enforced, and because Keep would write over a file that holds something else.
func ReadRevocations(name string, max int) (*Revocations, error) {
	r := NewRevocations(max)
	if name == "" {
		return r, nil
	}
	text, err := os.ReadFile(name)
	if written := bytes.TrimRight(text, "\x00"); len(written) > 0 { // power was lost: the file was made longer, and not written
		text = written
	}
	if errors.Is(err, fs.ErrNotExist) { // serve makes it, but not its folder
		_, err = os.Stat(filepath.Dir(name))
	}
	if err != nil {
		return nil, err
	}
	if err := r.replay(text); err != nil {
		return nil, fmt.Errorf("%s:%w", name, err)
	}
	return r, nil
}

// Keep writes the revocations to a file and keeps that up to date, until Close. One process at a
// time may do so.
func (r *Revocations) Keep(name string) error {
	r.change.Lock()
	defer r.change.Unlock()
	l := &ledger{name: name}
	if err := l.rewrite(r); err != nil {
		return err
	}
	r.file = l
	return nil
}

// Close closes the file, if there is one. What is revoked later is not kept.
func (r *Revocations) Close() error {
	r.change.Lock()
	defer r.change.Unlock()
	if r.file == nil {
		return nil
	}
	f := r.file.f
	r.file = nil
	return f.Close()
}

// replay takes the lines of a ledger over. The error begins with the number of the line.
func (r *Revocations) replay(text []byte) error {
	for n := 1; len(text) > 0; n++ {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		text = rest
		var v Revocation
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		err := d.Decode(&v)
		if err == nil && d.More() {
			err = errors.New("more than one value")
		}
		if err == nil {
			_, err = r.merge(v)
		} else if !whole && errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%d: %w", n, err)
		}
	}
	return nil
}

// add writes how a change has left v, which is in r already.
func (l *ledger) add(v Revocation, r *Revocations) error {
	if l == nil {
		return nil
	}
	if l.torn || l.lines > 2*len(r.byID)+spareLines || l.gone() {
		return l.rewrite(r)
	}
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	l.lines++
	_, err = l.f.Write(append(line, '\n'))
	if err == nil {
		err = l.f.Sync()
	}
	l.torn = err != nil
	return err
}

// gone reports whether another file, or none, has the ledger's name: a line that is added would
// not be found there.
func (l *ledger) gone() bool {
	named, err := os.Stat(l.name)
	if err != nil {
		return true
	}
	open, err := l.f.Stat()
	return err == nil && !os.SameFile(named, open)
}

// rewrite replaces the file by one that holds what r does, and goes on with that.
func (l *ledger) rewrite(r *Revocations) error {
	all := r.All()
	f, err := os.CreateTemp(filepath.Dir(l.name), filepath.Base(l.name)+".*")
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	e := json.NewEncoder(w)
	for _, v := range all {
		e.Encode(v) // what fails here is told by Flush
	}
	if err = errors.Join(w.Flush(), f.Sync()); err == nil {
		err = os.Rename(f.Name(), l.name)
	}
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return err
	}
	if l.f != nil {
		l.f.Close()
	}
	l.f, l.lines, l.torn = f, len(all), false
	return syncFolder(filepath.Dir(l.name))
}

// syncFolder makes a rename in a folder last.
func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
