package main

import (
	"io"
	standard "log"
	"log/slog"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
)

// lines are the log of serve: a queue of lines and one goroutine that writes them. A reader of
// the log that stalls, or dies, can hold up neither a request nor the end of the process. When
// the queue is full, lines are dropped and counted, and the log says so once there is room
// again.
type lines struct {
	// Immutable.
	out    io.Writer
	logger *slog.Logger // writes into the queue
	log    *slog.Logger // writes to out; the goroutine's alone
	queue  chan []byte
	over   chan struct{} // closed when the goroutine has ended

	// Atomics.
	dropped atomic.Uint64
	closed  atomic.Bool
}

const (
	maxLines = 4096        // that wait to be written
	lastLook = time.Second // how long Close waits for what is left
	maxWrite = 64 << 10    // bytes that are written at once, or one line
	// breath is the time between two writes, so that the lines of a rush are written together: for
	// each line alone a goroutine would be woken and a system call made.
	breath = 5 * time.Millisecond
)

// newLines returns the log of a configuration that was found good, written to out. Close ends it.
// From then on a reader of out that has died is an error of a write, not the end of the process.
func newLines(c config.Log, out io.Writer) *lines {
	signal.Ignore(syscall.SIGPIPE)
	// net/http writes there what an agent sends unasked, byte for byte, and waits for the reader.
	standard.SetOutput(io.Discard)
	l := &lines{out: out, log: newLog(c, out), queue: make(chan []byte, maxLines), over: make(chan struct{})}
	l.logger = newLog(c, l)
	go l.run()
	return l
}

// Write queues a line, and never waits. A line that finds no room is dropped and counted.
func (l *lines) Write(line []byte) (int, error) {
	if !l.closed.Load() {
		select {
		case l.queue <- append([]byte(nil), line...):
			return len(line), nil
		default:
		}
	}
	l.dropped.Add(1)
	return len(line), nil
}

// Dropped returns how many lines were never written.
func (l *lines) Dropped() uint64 { return l.dropped.Load() }

// Close writes what is left, for as long as lastLook allows.
func (l *lines) Close() {
	if l.closed.Swap(true) {
		return
	}
	limit := time.After(lastLook)
	select {
	case l.queue <- nil: // the end
	case <-limit:
		return
	}
	select {
	case <-l.over:
	case <-limit:
	}
}

// run writes lines until the end, many with one call when many wait.
func (l *lines) run() {
	defer close(l.over)
	var batch []byte
	var told uint64
	var next time.Time // when lines may be written again
	for end := false; !end; {
		var count uint64
		batch, count, end = l.gather(batch[:0], next)
		if next = time.Now(); len(batch) < maxWrite {
			next = next.Add(breath)
		}
		if _, err := l.out.Write(batch); err != nil {
			l.dropped.Add(count)
		}
		if now := l.dropped.Load(); now != told && len(l.queue) < maxLines/2 {
			l.log.Warn("log lines dropped: the reader of the log is too slow, or gone", "dropped", now-told)
			told = now
		}
	}
}

// gather waits for a line, and until a time, and appends it and those that wait after it to batch.
// It returns how many there are, and whether they are the last.
func (l *lines) gather(batch []byte, until time.Time) (_ []byte, count uint64, end bool) {
	line := <-l.queue
	time.Sleep(time.Until(until))
	for line != nil {
		batch = append(batch, line...)
		count++
		if len(batch) >= maxWrite {
			return batch, count, false
		}
		select {
		case line = <-l.queue:
		default:
			return batch, count, false
		}
	}
	return batch, count, true
}
