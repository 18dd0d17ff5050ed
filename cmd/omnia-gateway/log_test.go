package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
)

// slow is a reader of the log that can stall, or die.
type slow struct {
	mu    sync.Mutex
	text  bytes.Buffer
	stall chan struct{} // Write waits for it, unless nil
	err   error
}

func (s *slow) Write(b []byte) (int, error) {
	if s.stall != nil {
		<-s.stall
	}
	if s.err != nil {
		return 0, s.err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// written returns what has been written so far.
func (s *slow) written() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func TestEveryLineIsWrittenInOrder(t *testing.T) {
	out := &slow{}
	l := newLines(config.Log{Format: "text", Level: "info"}, out)
	for n := range 1000 {
		l.logger.Info("line", "n", n)
	}
	l.Close()
	l.Close()
	at := 0
	for n := range 1000 {
		next := strings.Index(out.text.String()[at:], fmt.Sprintf("msg=line n=%d\n", n))
		if next < 0 {
			t.Fatalf("line %d is missing, or before its time", n)
		}
		at += next
	}
	if l.Dropped() != 0 {
		t.Errorf("%d lines dropped", l.Dropped())
	}
}

func TestLogThatStallsHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &slow{stall: make(chan struct{})}
		l := newLines(config.Log{Format: "text", Level: "info"}, out)
		l.logger.Info("first")
		synctest.Wait() // it is being written
		start := time.Now()
		for range maxLines + 10 {
			l.logger.Info("line")
		}
		if took := time.Since(start); took != 0 || l.Dropped() != 10 {
			t.Errorf("logging took %s, %d lines dropped", took, l.Dropped())
		}
		close(out.stall) // it goes on
		time.Sleep(breath)
		synctest.Wait()
		if text := out.text.String(); !strings.Contains(text, "log lines dropped") || !strings.Contains(text, "dropped=10") {
			t.Errorf("the log does not report what it lost: …%s", text[max(0, len(text)-200):])
		}
		l.Close()
	})
}

func TestEndWaitsASecondForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &slow{stall: make(chan struct{})}
		l := newLines(config.Log{Format: "json", Level: "info"}, out)
		for range maxLines + 2 {
			l.logger.Info("line")
			synctest.Wait()
		}
		start := time.Now()
		l.Close()
		if took := time.Since(start); took != time.Second {
			t.Errorf("Close took %s", took)
		}
		close(out.stall)
		l.queue <- nil // so that the goroutine of the test ends
		<-l.over
	})
}

func TestLinesForAReaderThatHasDiedAreCounted(t *testing.T) {
	out := &slow{err: errors.New("broken pipe")}
	l := newLines(config.Log{Format: "json", Level: "info"}, out)
	for range 100 {
		l.logger.Info("line")
	}
	l.Close()
	if l.Dropped() != 100 {
		t.Errorf("%d lines counted", l.Dropped())
	}
}

func TestLinesOfARushAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &slow{}
		l := newLines(config.Log{Format: "text", Level: "info"}, out)
		say := func(line, want string) {
			t.Helper()
			l.Write([]byte(line))
			synctest.Wait()
			if got := out.written(); got != want {
				t.Errorf("after line %s there is %q, want %q", line, got, want)
			}
		}
		say("1", "1")
		say("2", "1")
		say("3", "1")
		time.Sleep(breath)
		synctest.Wait()
		time.Sleep(breath)
		say("4", "1234") // after a pause a line does not wait
		say("5", "1234")
		l.Close()
		if got := out.written(); got != "12345" {
			t.Errorf("%q in the end", got)
		}
	})
}
