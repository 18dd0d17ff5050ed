//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

// bareWord is the argument with which the program is the peer "bare": the least that a Go program
// with net/http's parser can do between a client and its agent. It knows no tokens and no routes,
// no limits, no sessions and no frames: it shows which part of a handshake is Go's.
const bareWord = "bare"

// bare is what bare.json says.
type bare struct {
	Listen, Agent string
	Cert, Key     string // files; none: plain
}

// serveBare is the peer with a configuration, until the process ends.
func serveBare(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var b bare
	if err := json.Unmarshal(text, &b); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", b.Listen)
	if err != nil {
		return err
	}
	if b.Cert != "" {
		pair, err := tls.LoadX509KeyPair(b.Cert, b.Key)
		if err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{
			Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"},
		})
	}
	dialer := &net.Dialer{Timeout: patience, KeepAlive: -1}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := b.connect(c, dialer); err != nil {
				log.Print(err)
			}
		}()
	}
}

// halfCloser is a TCP connection, or TLS over one.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// connect passes a handshake on to the agent and its answer back, and copies bytes until both
// sides have ended.
func (b *bare) connect(c net.Conn, dialer *net.Dialer) error {
	client := c.(halfCloser)
	defer client.Close()
	client.SetReadDeadline(time.Now().Add(patience))
	from := bufio.NewReader(client)
	request, err := http.ReadRequest(from)
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	client.SetReadDeadline(time.Time{})
	conn, err := dialer.Dial("tcp", b.Agent)
	if err != nil {
		return err
	}
	agent := conn.(halfCloser)
	defer agent.Close()
	to := bufio.NewWriter(agent)
	if err := request.Write(to); err != nil {
		return err
	}
	if err := to.Flush(); err != nil {
		return err
	}
	answers := bufio.NewReader(agent)
	answer, err := http.ReadResponse(answers, request)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	back := bufio.NewWriter(client)
	fmt.Fprintf(back, "HTTP/1.1 %s\r\n", answer.Status)
	answer.Header.Write(back)
	back.WriteString("\r\n")
	if err := back.Flush(); err != nil {
		return err
	}
	down := make(chan struct{})
	go func() {
		defer close(down)
		io.Copy(client, answers)
		client.CloseWrite()
	}()
	io.Copy(agent, from)
	agent.CloseWrite()
	<-down
	return nil
}
