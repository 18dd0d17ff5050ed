package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/dev"
)

// devOptions is what a developer may choose.
type devOptions struct {
	listen, key string
	tls         bool
	lifetime    time.Duration
}

func newDev() *cobra.Command {
	var o devOptions
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run the gateway with an issuer and an echo agent, nothing configured",
		Long: "Dev runs three things on loopback until Ctrl-C: an OIDC issuer that gives a token to everybody who asks, an agent that echoes, and the gateway\n" +
			"before it. It prints what to paste into a terminal or a browser. Nothing of it is for production.",
		Args: noCommand,
		RunE: func(c *cobra.Command, _ []string) error {
			return runDev(c.Context(), o, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVar(&o.listen, "listen", "", "`address` of the gateway (default 127.0.0.1:8080, or any free port)")
	f.BoolVar(&o.tls, "tls", false, "speak wss, with a self-signed certificate")
	f.DurationVar(&o.lifetime, "lifetime", time.Hour, "of the printed token")
	f.StringVar(&o.key, "key", "", "PEM `file` with the issuer's private key; made if missing (default: a new key that is kept nowhere)")
	c.AddCommand(newDevIssuer(), newDevAgent())
	return c
}

func newDevIssuer() *cobra.Command {
	var listen, issuer, key string
	c := &cobra.Command{
		Use:   "issuer",
		Short: "Run the issuer alone",
		Args:  takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			signer, err := signerIn(key)
			if err != nil {
				return err
			}
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return err
			}
			defer l.Close()
			if issuer == "" {
				issuer = "http://" + l.Addr().String()
			}
			i, err := dev.NewIssuer(issuer, signer)
			if err != nil {
				return usageError{err}
			}
			fmt.Fprintf(c.OutOrStdout(), "issuer %s on %s; a token: curl -s http://%s/token -d sub=alice\n", issuer, l.Addr(), l.Addr())
			return untilSignal(c.Context(), func(ctx context.Context) error { return i.Serve(ctx, l) })
		},
	}
	f := c.Flags()
	f.StringVar(&listen, "listen", "127.0.0.1:9000", "`address`")
	f.StringVar(&issuer, "issuer", "", "`URL` under which gateways reach it, the claim iss (default http:// and the address)")
	f.StringVar(&key, "key", "", "PEM `file` with the private key; made if missing (default: a new key that is kept nowhere)")
	return c
}

func newDevAgent() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use:   "agent",
		Short: "Run the echo agent alone",
		Args:  takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "agent on %s; it believes x-user-id, so let nobody but a gateway reach it\n", l.Addr())
			return untilSignal(c.Context(), func(ctx context.Context) error { return dev.NewAgent().Serve(ctx, l) })
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8081", "`address`")
	return c
}

// untilSignal runs f with a context that SIGINT or SIGTERM ends.
func untilSignal(ctx context.Context, f func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return f(ctx)
}

// devConfig is the gateway's configuration: a file like any other, so that explain can be tried on it.
var devConfig = template.Must(template.New("").Parse(`listen: {{.Listen}}
{{- if .Cert}}
tls: { certFile: {{.Cert}}, keyFile: {{.Key}} }
{{- end}}
admin: { listen: "127.0.0.1:0" }
routes:
  - { path: /echo, upstream: "http://{{.Agent}}" }
  - { path: /dev, upstream: "http://{{.Issuer}}", public: true } # the page, same-origin with the gateway
authentication:
  jwt:
    issuer: http://{{.Issuer}}
    audiences: [agents]
    clockSkew: 0s # so that a token's end is seen when it comes
  authorization:
    requiredClaims:
      - { claim: scope, values: ["agents:access"] }
log: { format: text, level: info }
`))

// runDev runs issuer, agent and gateway until a signal.
func runDev(ctx context.Context, o devOptions, stdout, stderr io.Writer) (err error) {
	signals, stop := catchSignals()
	defer stop()
	dir, err := os.MkdirTemp("", "omnia-gateway-dev-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	signer, err := signerIn(o.key)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var addrs [2]string
	var parts [2]net.Listener
	for n := range parts {
		if parts[n], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		addrs[n] = parts[n].Addr().String()
		defer parts[n].Close()
	}
	issuer, err := dev.NewIssuer("http://"+addrs[0], signer)
	if err != nil {
		return err
	}
	wg.Go(func() { issuer.Serve(ctx, parts[0]) })
	wg.Go(func() { dev.NewAgent().Serve(ctx, parts[1]) })

	settings := struct{ Listen, Cert, Key, Issuer, Agent string }{o.listen, "", "", addrs[0], addrs[1]}
	if o.listen == "" {
		settings.Listen = freeOr("127.0.0.1:8080")
	}
	if o.tls {
		settings.Cert, settings.Key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		if err := selfSigned(settings.Cert, settings.Key); err != nil {
			return err
		}
	}
	file := filepath.Join(dir, "gateway.yaml")
	if err := writeConfig(file, settings); err != nil {
		return err
	}
	g, config, err := build(config.Sources{File: file}, stderr)
	if err != nil {
		return err
	}
	if err := g.Listen(); err != nil {
		return err
	}
	claims := issuer.Claims()
	claims["exp"] = time.Now().Add(o.lifetime).Unix()
	token, err := issuer.Token(claims, "")
	if err != nil {
		return err
	}
	if err := g.Refresh(ctx); err != nil { // before anything is printed that needs the keys
		return err
	}
	printDev(stdout, g.Addr().String(), o.tls, file, token, addrs[0])
	return serve(ctx, g, config.Session.DrainTimeout, signals)
}

func writeConfig(file string, settings any) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(devConfig.Execute(f, settings), f.Close())
}

// freeOr is addr if nobody listens there, else any free port of its host.
func freeOr(addr string) string {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		host, _, _ := net.SplitHostPort(addr)
		return net.JoinHostPort(host, "0")
	}
	l.Close()
	return addr
}

// printDev prints what to paste. Websocat takes all that follows a -H for headers, so its URL comes first, and its -n keeps the end of the
// input from ending the connection before the answer is there.
func printDev(w io.Writer, addr string, tls bool, file, token, issuer string) {
	at := url.URL{Scheme: "ws", Host: addr, Path: "/echo/ws"}
	page := url.URL{Scheme: "http", Host: addr, Path: "/dev/"}
	insecure, trust := "", ""
	if tls {
		at.Scheme, page.Scheme = "wss", "https"
		insecure, trust = " --insecure", " --no-check"
	}
	fmt.Fprintf(w, `The gateway is at %[1]s, before an agent that echoes.

In a terminal (the token lives for the time of --lifetime; a fresh one: curl -s http://%[6]s/token -d sub=alice):

  wscat%[5]s -c %[1]s -H "Authorization: Bearer %[3]s" -x hello -w 1

  echo hello | websocat%[4]s -n --max-messages-rev 2 %[1]s -H "Authorization: Bearer %[3]s"

In a browser:

  %[2]s

Why is a request let in, or refused? Change a letter of the token and ask:

  %[7]s explain --config %[8]s --path /echo/ws --token %[3]s

Ctrl-C ends it.

`, &at, &page, token, insecure, trust, issuer, self(), quote(file))
}

// self is how a shell calls this program again: by its name if that is what it finds under it, else by its path, but for what go run made
// in its cache, which another go run does.
func self() string {
	const name = "omnia-gateway"
	exe, err := os.Executable()
	if err != nil {
		return name
	}
	if strings.Contains(exe, string(filepath.Separator)+"go-build") {
		return "go run ./cmd/omnia-gateway"
	}
	if found, err := exec.LookPath(name); err == nil && sameFile(found, exe) {
		return name
	}
	return quote(exe)
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// plainWord is what a POSIX shell takes as it is.
var plainWord = regexp.MustCompile(`^[\pL\pN/._+-]+$`)

// quote is s as one word of a shell.
func quote(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// selfSigned makes a certificate for this machine's loopback names and its key.
func selfSigned(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "omnia-gateway dev"},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(30 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600),
	)
}
