package gateway

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/internal/wstest"
)

// served is a listener with the certificates of a folder, whose connections echo.
func served(t *testing.T, c config.TLS) (*certificates, string) {
	t.Helper()
	certs, err := newCertificates(c)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{newSteady(tcp, slog.New(slog.DiscardHandler)), certs.server(), wstest.Patience, wstest.Patience, balancers{}}
	attend(t, l, func(c net.Conn) { io.Copy(c, c) })
	return certs, l.Addr().String()
}

// greet shakes hands and gives the state of the connection; an error also when the server then
// hangs up.
func greet(addr string, c *tls.Config) (tls.ConnectionState, error) {
	c.InsecureSkipVerify = true
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: wstest.Patience}, "tcp", addr, c)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(wstest.Patience))
	if _, err := conn.Write([]byte("x")); err != nil {
		return tls.ConnectionState{}, err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return conn.ConnectionState(), err
}

// serial is the number of the certificate that is served.
func serial(t *testing.T, addr string) int64 {
	t.Helper()
	state, err := greet(addr, &tls.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return state.PeerCertificates[0].SerialNumber.Int64()
}

func pairIn(dir string) config.TLS {
	return config.TLS{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), MinVersion: "1.2"}
}

// watched runs the watcher of certs until the test ends. Each reload's outcome comes out of the
// channel.
func watched(t *testing.T, certs *certificates, every time.Duration) <-chan error {
	t.Helper()
	outcomes := make(chan error, 16)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		watch(ctx, slog.New(slog.DiscardHandler), every, certs.files, func() {
			if changed, err := certs.load(); changed || err != nil {
				outcomes <- err
			}
		})
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return outcomes
}

// touchUntil changes something until a reload has come, because nothing tells when the watcher
// has begun.
func touchUntil(t *testing.T, outcomes <-chan error, change func()) error {
	t.Helper()
	tick := time.NewTicker(3 * settle)
	defer tick.Stop()
	limit := time.After(wstest.Patience)
	for change(); ; {
		select {
		case err := <-outcomes:
			return err
		case <-tick.C:
			change()
		case <-limit:
			t.Fatal("no reload")
		}
	}
}

func TestCertificateFollowsTheSymlinkSwapOfKubernetes(t *testing.T) {
	dir := t.TempDir()
	generation := 0
	// swap writes a new generation as the kubelet does: a new folder, and a symlink to it that
	// is renamed over the old one.
	swap := func() {
		generation++
		next := filepath.Join(dir, "..2026_"+string(rune('a'+generation)))
		if err := errors.Join(os.Mkdir(next, 0o700), os.Symlink(filepath.Base(next), filepath.Join(dir, "..data_tmp"))); err != nil {
			t.Fatal(err)
		}
		writePair(t, next, wstest.KeyPair(t, int64(generation), time.Now().Add(time.Hour)))
		old, _ := os.Readlink(filepath.Join(dir, "..data"))
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		if old != "" {
			os.RemoveAll(filepath.Join(dir, old))
		}
	}
	swap()
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	certs, addr := served(t, pairIn(dir))
	if n := serial(t, addr); n != 1 {
		t.Fatalf("certificate %d is served", n)
	}
	outcomes := watched(t, certs, glance)
	for range 3 { // each swap, not only the first
		before := generation
		if err := touchUntil(t, outcomes, swap); err != nil {
			t.Fatal(err)
		}
		if n := serial(t, addr); n <= int64(before) {
			t.Errorf("certificate %d is served after generation %d", n, generation)
		}
	}
}

// No system call tells of a link further up that was swapped, nor of a single file that is
// mounted.
func TestCertificateThatChangedWithoutANoticeIsFound(t *testing.T) {
	dir := t.TempDir()
	generation := func(n int64) string {
		next := filepath.Join(dir, fmt.Sprint(n), "certs")
		if err := os.MkdirAll(next, 0o700); err != nil {
			t.Fatal(err)
		}
		writePair(t, next, wstest.KeyPair(t, n, time.Now().Add(time.Hour)))
		return fmt.Sprint(n)
	}
	link := filepath.Join(dir, "current")
	point := func(to string) {
		if err := errors.Join(os.Symlink(to, link+".new"), os.Rename(link+".new", link)); err != nil {
			t.Fatal(err)
		}
	}
	point(generation(1))
	certs, addr := served(t, pairIn(filepath.Join(link, "certs")))
	outcomes := watched(t, certs, 10*time.Millisecond)
	point(generation(2))
	if err := <-outcomes; err != nil {
		t.Fatal(err)
	}
	if n := serial(t, addr); n != 2 {
		t.Errorf("certificate %d is served", n)
	}
}

func TestBadCertificateKeepsTheOldOne(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, wstest.KeyPair(t, 1, time.Now().Add(time.Hour)))
	certs, addr := served(t, pairIn(dir))
	outcomes := watched(t, certs, glance)

	next := wstest.KeyPair(t, 2, time.Now().Add(2*time.Hour))
	nothing := 0
	// A certificate alone: its key comes later.
	if err := touchUntil(t, outcomes, func() {
		nothing++ // another text each time, as the same bad files are reported once
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: next.Certificate[0]})
		writeFile(t, filepath.Join(dir, "tls.crt"), append(text, strings.Repeat("\n", nothing)...))
	}); err == nil {
		t.Error("a certificate without its key was taken")
	}
	if n := serial(t, addr); n != 1 {
		t.Errorf("certificate %d is served, want the old one", n)
	}
	if err := touchUntil(t, outcomes, func() { writePair(t, dir, next) }); err != nil {
		t.Errorf("certificate and key: %v", err)
	}
	if n := serial(t, addr); n != 2 {
		t.Errorf("certificate %d is served, want the new one", n)
	}
	if got, want := certs.expiry(), time.Now().Add(2*time.Hour); got.Before(want.Add(-time.Minute)) || got.After(want) {
		t.Errorf("expires at %s", got)
	}
	if err := touchUntil(t, outcomes, func() { os.Remove(filepath.Join(dir, "tls.key")) }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a key file: %v", err)
	}
	if n := serial(t, addr); n != 2 {
		t.Errorf("certificate %d is served, want the last good one", n)
	}
	third := wstest.KeyPair(t, 3, time.Now().Add(time.Hour))
	if err := touchUntil(t, outcomes, func() { writePair(t, dir, third) }); err != nil {
		t.Errorf("the files are back: %v", err)
	}
	if n := serial(t, addr); n != 3 {
		t.Errorf("certificate %d is served, want the third", n)
	}
}

func TestUnchangedFilesAreNoReload(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, wstest.KeyPair(t, 1, time.Now().Add(time.Hour)))
	certs, _ := served(t, pairIn(dir))
	before := certs.current.Load()
	if changed, err := certs.load(); changed || err != nil || certs.current.Load() != before {
		t.Errorf("changed %v, %v", changed, err)
	}
}

func TestFilesThatCannotBeServedWith(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, wstest.KeyPair(t, 1, time.Now().Add(time.Hour)))
	other := t.TempDir()
	writePair(t, other, wstest.KeyPair(t, 2, time.Now().Add(time.Hour)))
	writeFile(t, filepath.Join(dir, "empty"), nil)
	good := pairIn(dir)
	for name, change := range map[string]func(*config.TLS){
		"no certificate file":            func(c *config.TLS) { c.CertFile = filepath.Join(dir, "missing") },
		"no key file":                    func(c *config.TLS) { c.KeyFile = filepath.Join(dir, "missing") },
		"another's key":                  func(c *config.TLS) { c.KeyFile = filepath.Join(other, "tls.key") },
		"an empty certificate":           func(c *config.TLS) { c.CertFile = filepath.Join(dir, "empty") },
		"no authorities file":            func(c *config.TLS) { c.ClientCAFile = filepath.Join(dir, "missing") },
		"an authorities file of nothing": func(c *config.TLS) { c.ClientCAFile = filepath.Join(dir, "empty") },
	} {
		c := good
		change(&c)
		if _, err := newCertificates(c); err == nil || strings.Contains(err.Error(), "PRIVATE KEY-----") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatTheListenerSpeaks(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, wstest.KeyPair(t, 1, time.Now().Add(time.Hour)))
	_, modern := served(t, pairIn(dir))
	strict := pairIn(dir)
	strict.MinVersion = "1.3"
	_, strictest := served(t, strict)
	for _, tt := range []struct {
		name string
		addr string
		c    *tls.Config
		ok   bool
	}{
		{"TLS 1.3", modern, &tls.Config{}, true},
		{"TLS 1.2", modern, &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"TLS 1.1", modern, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"TLS 1.2 where 1.3 is asked for", strictest, &tls.Config{MaxVersion: tls.VersionTLS12}, false},
		{"TLS 1.3 where it is asked for", strictest, &tls.Config{}, true},
		{"no AEAD", modern, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}},
			false},
		{"no forward secrecy", modern, &tls.Config{MaxVersion: tls.VersionTLS12,
			CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}}, false},
		{"HTTP/2 only", modern, &tls.Config{NextProtos: []string{"h2"}}, false},
		{"HTTP/1.1", modern, &tls.Config{NextProtos: []string{"h2", "http/1.1"}}, true},
	} {
		state, err := greet(tt.addr, tt.c)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if len(tt.c.NextProtos) > 1 && state.NegotiatedProtocol != "http/1.1" {
			t.Errorf("%s: %q", tt.name, state.NegotiatedProtocol)
		}
	}
}

func TestClientCertificates(t *testing.T) {
	dir, clients, strangers := t.TempDir(), t.TempDir(), t.TempDir()
	writePair(t, dir, wstest.KeyPair(t, 1, time.Now().Add(time.Hour)))
	known, stranger := wstest.KeyPair(t, 2, time.Now().Add(time.Hour)), wstest.KeyPair(t, 3, time.Now().Add(time.Hour))
	writePair(t, clients, known)
	writePair(t, strangers, stranger)
	c := pairIn(dir)
	c.ClientCAFile = filepath.Join(clients, "tls.crt")
	certs, addr := served(t, c)
	try := func(pairs ...tls.Certificate) error {
		_, err := greet(addr, &tls.Config{Certificates: pairs})
		return err
	}
	if err := try(known); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
	if try() == nil || try(stranger) == nil {
		t.Error("without a certificate, or with a stranger's, a client got in")
	}
	// The file of authorities is watched like the others.
	outcomes := watched(t, certs, glance)
	if err := touchUntil(t, outcomes, func() { writePair(t, clients, stranger) }); err != nil {
		t.Fatal(err)
	}
	if err := try(stranger); err != nil {
		t.Errorf("with a certificate of the new authority: %v", err)
	}
	if try(known) == nil {
		t.Error("a client got in with a certificate of the old authority")
	}
}

func TestChangeBeforeTheWatchIsSeen(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, wstest.KeyPair(t, 1, time.Now().Add(time.Hour)))
	certs, addr := served(t, pairIn(dir))
	writePair(t, dir, wstest.KeyPair(t, 2, time.Now().Add(time.Hour)))
	if err := <-watched(t, certs, glance); err != nil {
		t.Fatal(err)
	}
	if n := serial(t, addr); n != 2 {
		t.Errorf("certificate %d is served", n)
	}
}

func TestFolderInWhichOthersAlwaysWriteIsReadAllTheSame(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, wstest.KeyPair(t, 1, time.Now().Add(time.Hour)))
	certs, addr := served(t, pairIn(dir))
	writePair(t, dir, wstest.KeyPair(t, 2, time.Now().Add(time.Hour)))
	outcomes := watched(t, certs, glance)
	tick := time.NewTicker(settle / 20)
	defer tick.Stop()
	for limit := time.After(wstest.Patience); ; {
		select {
		case err := <-outcomes:
			if err != nil || serial(t, addr) != 2 {
				t.Errorf("certificate %d is served; %v", serial(t, addr), err)
			}
			return
		case <-tick.C:
			writeFile(t, filepath.Join(dir, "other"), []byte("x"))
		case <-limit:
			t.Fatal("no reload")
		}
	}
}

func TestFolderThatCannotBeWatchedIsReported(t *testing.T) {
	log := &journal{}
	gone := filepath.Join(t.TempDir(), "gone")
	ctx, cancel := context.WithCancel(t.Context())
	files := func() []string { return []string{filepath.Join(gone, "tls.crt")} }
	watch(ctx, slog.New(slog.NewJSONHandler(log, nil)), glance, files, cancel) // the first look ends it
	lines := log.lines(t, "no notice of files that change here; they are read every 30 s")
	if len(lines) != 1 || lines[0]["folder"] != gone {
		t.Errorf("%v", lines)
	}
}
