package auth

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// kept returns revocations that are kept in a file, which the test closes.
func kept(t testing.TB, name string, max int) *Revocations {
	t.Helper()
	r, err := ReadRevocations(name, max)
	if err == nil {
		err = r.Keep(name)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestRevocationsOutliveTheProcess(t *testing.T) {
	name := filepath.Join(t.TempDir(), "revocations")
	r := kept(t, name, 10)
	until := time.Now().Add(time.Hour)
	for _, v := range []Revocation{
		{Issuer: "i", Subject: "\u2028 ü \x7f", Until: until}, {Issuer: "i", SID: "s", Until: until}, {Issuer: "i", JTI: "j", Until: until},
		{Issuer: "i", IssuedBefore: time.Now(), Until: until},
		{Issuer: "i", Subject: "u", IssuedBefore: time.Now(), Until: until, Logout: true},
		{Issuer: "i", Subject: "soon", Until: time.Now().Add(time.Millisecond)},
	} {
		if _, err := r.Add(v); err != nil {
			t.Fatal(err)
		}
	}
	lifted, _, err := r.Lift(Revocation{Issuer: "i", SID: "s"}.id())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(r.All()[0].Created.Add(2 * time.Millisecond))) // the last one ends
	want := r.All()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	again := kept(t, name, 10)
	if got := again.All(); len(got) != 5 || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if _, there := again.Get(lifted.ID); there {
		t.Error("a lifted one is in force again")
	}
	text, err := os.ReadFile(name)
	if err != nil || bytes.Contains(text, []byte("soon")) {
		t.Errorf("%s, %v: what has ended is still there", text, err)
	}
}

// A volume is cleaned up, or a backup is put back, while the gateway runs.
func TestRevocationsAreKeptAlsoAfterTheirFileIsGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "folder")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "revocations")
	r := kept(t, name, 10)
	bar := func(subject string) error {
		_, err := r.Add(Revocation{Issuer: "i", Subject: subject, Until: time.Now().Add(time.Hour)})
		return err
	}
	for n, change := range []func() error{
		func() error { return nil },
		func() error { return os.Remove(name) },
		func() error { return os.Rename(name, name+".old") },
		func() error {
			return errors.Join(os.WriteFile(name+".new", nil, 0o600), os.Rename(name+".new", name))
		},
	} {
		if err := errors.Join(change(), bar(fmt.Sprint(n))); err != nil {
			t.Fatal(err)
		}
		if again, err := ReadRevocations(name, 10); err != nil || len(again.List()) != n+1 {
			t.Errorf("%d: %v, %v", n, again, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if bar("lost") == nil {
		t.Error("a revocation that is not kept is told to be")
	}
}

// The process may be killed while it writes. What was answered is there, wherever the file ends.
func TestALastLineThatIsCutOffIsDropped(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "revocations")
	r := kept(t, name, 10)
	until := time.Now().Add(time.Hour)
	r.Add(Revocation{Issuer: "i", Subject: "first", Until: until})
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r.Add(Revocation{Issuer: "i", Subject: "second", Until: until})
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(dir, "torn")
	for n := len(whole); n <= len(text); n++ {
		if err := os.WriteFile(torn, text[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := ReadRevocations(torn, 10)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		want := 1
		if n >= len(text)-1 {
			want = 2
		}
		if got := len(again.List()); got != want {
			t.Errorf("%d of %d bytes: %d revocations, want %d", n, len(text), got, want)
		}
	}
}

// After a loss of power a file system may have made a file longer without having written it.
func TestALastLineThatWasNeverWrittenIsDropped(t *testing.T) {
	name := filepath.Join(t.TempDir(), "revocations")
	r := kept(t, name, 10)
	r.Add(Revocation{Issuer: "i", Subject: "first", Until: time.Now().Add(time.Hour)})
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, tail := range []string{"\x00", strings.Repeat("\x00", 4096), `{"id":"8c2f` + strings.Repeat("\x00", 90)} {
		if err := os.WriteFile(name, append(whole, tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := ReadRevocations(name, 10)
		if err != nil || len(again.List()) != 1 {
			t.Errorf("%.20q: %v", tail, err)
		}
	}
}

func TestABadFileOfRevocationsIsAnError(t *testing.T) {
	r, _ := revocationsOf(10)
	good := string(lineOf(t, r, Revocation{Issuer: "i", Subject: "s", Until: time.Now().Add(time.Hour)}))
	other := string(lineOf(t, r, Revocation{Issuer: "i", Subject: "t", Until: time.Now().Add(time.Hour)}))
	for text, want := range map[string]string{
		"x\n":       ":1: ",
		good + "\n": ":2: ",
		// No line break at the end does not make a line one that is cut off.
		"hunter2":                    ":1: ",
		strings.Repeat("\x00", 100):  ":1: ",
		good + "x":                   ":2: ",
		`{"token":"x"}`:              `:1: json: unknown field "token"`,
		good + "{}\n" + good:         ":2: issuer is missing",
		good[:20] + "\n" + good:      ":1: ",
		good[:len(good)-2] + good:    ":1: ",
		"{\"token\":\"x\"}\n" + good: `:1: json: unknown field "token"`,
		strings.Replace(good, `"subject":"s"`, `"subject":"t"`, 1): ":1: the id is not that",
		strings.TrimSpace(good) + " {}\n":                          ":1: more than one value",
		good + other:                                               ":2: too many revocations",
	} {
		name := filepath.Join(t.TempDir(), "revocations")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRevocations(name, 1); err == nil || !strings.HasPrefix(err.Error(), name+want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := ReadRevocations(t.TempDir(), 1); err == nil {
		t.Error("a folder was read")
	}
	if err := NewRevocations(1).Keep(filepath.Join(t.TempDir(), "no", "folder")); err == nil {
		t.Error("a file in no folder is kept")
	}
}

// lineOf returns the line of a revocation in the file.
func lineOf(t testing.TB, r *Revocations, v Revocation) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "revocations")
	k := kept(t, name, 10)
	if _, err := k.Add(v); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTheFileOfRevocationsDoesNotGrowForEver(t *testing.T) {
	name := filepath.Join(t.TempDir(), "revocations")
	r := kept(t, name, 10)
	r.file.lines = spareLines // as after so many changes
	v := Revocation{Issuer: "i", Subject: "s", Until: time.Now().Add(time.Hour)}
	for range 5 {
		if _, err := r.Add(v); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(name)
	if n := bytes.Count(text, []byte("\n")); err != nil || n > 3 {
		t.Errorf("%d lines, %v", n, err)
	}
	if others, err := os.ReadDir(filepath.Dir(name)); err != nil || len(others) != 1 {
		t.Errorf("%v, %v: temporary files are left", others, err)
	}
}

// After a failed write the line may be half there: the next change must not be added to it.
func TestAfterAFailedWriteTheFileIsWrittenAnew(t *testing.T) {
	name := filepath.Join(t.TempDir(), "revocations")
	r := kept(t, name, 10)
	r.file.f.WriteString(`{"id":"half`)
	r.file.f.Close() // as if the disk had failed
	until := time.Now().Add(time.Hour)
	if _, err := r.Add(Revocation{Issuer: "i", Subject: "first", Until: until}); err == nil {
		t.Error("no error")
	}
	if _, err := r.Add(Revocation{Issuer: "i", Subject: "second", Until: until}); err != nil {
		t.Error(err)
	}
	again, err := ReadRevocations(name, 10)
	if err != nil || len(again.List()) != 2 {
		t.Errorf("%+v, %v", again, err)
	}
}

func FuzzReadRevocations(f *testing.F) {
	r, _ := revocationsOf(10)
	line := lineOf(f, r, Revocation{Issuer: "i", Subject: "s", Until: time.Now().Add(time.Hour)})
	f.Add(line)
	f.Add(line[:len(line)/2])
	f.Add(append([]byte("{}\n"), line...))
	f.Fuzz(func(t *testing.T, text []byte) {
		name := filepath.Join(t.TempDir(), "revocations")
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := ReadRevocations(name, 10)
		if err != nil {
			return
		}
		if err := r.Keep(name); err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		again, err := ReadRevocations(name, 10)
		if err != nil || fmt.Sprint(again.All()) != fmt.Sprint(r.All()) {
			t.Fatalf("%v, then %v, %v", r.All(), again, err)
		}
	})
}
