package gateway

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/altairalabs/omnia-gateway/config"
)

// certificates is the TLS side of the public listener. What it serves changes with the files;
// connections keep what they began with.
type certificates struct {
	config  config.TLS
	current atomic.Pointer[tls.Config]

	mu   sync.Mutex
	seen [sha256.Size]byte // of the files when they were last read
}

// newCertificates reads the files once; an error means that there is nothing to serve with.
func newCertificates(c config.TLS) (*certificates, error) {
	t := &certificates{config: c}
	_, err := t.load()
	return t, err
}

// load reads the files again and reports whether they are new. An error changes nothing, and is
// given once: a log file in the same folder must not make an event of each report.
func (t *certificates) load() (changed bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	cert, key, authorities := &file{key: "tls.certFile", name: t.config.CertFile}, &file{key: "tls.keyFile", name: t.config.KeyFile},
		&file{key: "tls.clientCAFile", name: t.config.ClientCAFile}
	unread := errors.Join(cert.read(), key.read(), authorities.read())
	sum := sumOfFiles(cert, key, authorities)
	if sum == t.seen {
		return false, nil
	}
	t.seen = sum
	if unread != nil {
		return false, unread
	}
	pair, err := readPair(cert, key)
	if err != nil {
		return false, err
	}
	next := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"}, // a WebSocket needs it, and what is not spoken cannot be attacked
		// Of TLS 1.2 the suites with forward secrecy and an AEAD only (RFC 9325 §4.2); those of
		// 1.3 are not a choice.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		DynamicRecordSizingDisabled: true, // the first megabyte would go out in records of 1.4 KB
	}
	if t.config.MinVersion == "1.3" {
		next.MinVersion = tls.VersionTLS13
	}
	if t.config.ClientCAFile != "" {
		next.ClientAuth = tls.RequireAndVerifyClientCert
		if next.ClientCAs, err = readAuthorities(authorities); err != nil {
			return false, err
		}
	}
	t.current.Store(next)
	return true, nil
}

// server returns the configuration for a listener: each handshake takes what is current. It is nil
// without certificates.
func (t *certificates) server() *tls.Config {
	if t == nil {
		return nil
	}
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.current.Load(), nil }}
}

// files returns the names of the files.
func (t *certificates) files() (names []string) {
	for _, name := range []string{t.config.CertFile, t.config.KeyFile, t.config.ClientCAFile} {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// expiry is when the current certificate ends.
func (t *certificates) expiry() time.Time {
	return t.leaf().NotAfter
}
