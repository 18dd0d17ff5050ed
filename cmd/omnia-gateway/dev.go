package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
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
	"github.com/altairalabs/omnia-gateway/internal/selfsigned"
)

// devOptions is what a developer may choose.
type devOptions struct {
	listen, key, upstream string
	tls                   bool
	lifetime              time.Duration
}

func newDev() *cobra.Command {
	var o devOptions
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run the gateway with an issuer and an echo agent, nothing configured",
		Long: "Dev runs three things on loopback until Ctrl-C: an OIDC issuer that gives a token to every\n" +
			"client that asks, an agent that echoes, and the gateway before it. It prints what to paste into\n" +
			"a terminal or a browser. With --upstream it runs your own agent's gateway instead. Do not use it\n" +
			"in production.",
		Example: "  omnia-gateway dev\n" +
			"  omnia-gateway dev --upstream http://localhost:3000      # your agent, at the same paths as there\n" +
			"  omnia-gateway dev --lifetime 20s                        # see how connections end with their tokens",
		Args: noCommand,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.lifetime < time.Second {
				return usageError{fmt.Errorf("--lifetime %v: a token lives for a second at least", o.lifetime)}
			}
			return runDev(c.Context(), o, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVar(&o.listen, "listen", "", "`address` of the gateway (default 127.0.0.1:8080, or any free port)")
	f.StringVar(&o.upstream, "upstream", "", "`URL` of your own agent, which takes the place of the echo agent")
	f.BoolVar(&o.tls, "tls", false, "speak wss, with a self-signed certificate")
	lifetimeFlag(c, &o.lifetime)
	f.StringVar(&o.key, "key", "", "PEM `file` with the issuer's private key; made if missing (default: a new key that is kept nowhere)")
	c.AddCommand(newDevIssuer(), newDevAgent())
	return c
}

func lifetimeFlag(c *cobra.Command, lifetime *time.Duration) {
	c.Flags().DurationVar(lifetime, "lifetime", time.Hour, "of each token for which no other is asked")
}

func newDevIssuer() *cobra.Command {
	var listen, issuer, key string
	var lifetime time.Duration
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
			i, err := dev.NewIssuer(issuer, signer, lifetime)
			if err != nil {
				return usageError{err}
			}
			fmt.Fprintf(c.OutOrStdout(), "issuer %s on %s; a token: curl -s 'http://%s/token?sub=alice'\n", issuer, l.Addr(), l.Addr())
			return untilSignal(c.Context(), func(ctx context.Context) error { return i.Serve(ctx, l) })
		},
	}
	f := c.Flags()
	f.StringVar(&listen, "listen", "127.0.0.1:9000", "`address`")
	f.StringVar(&issuer, "issuer", "", "`URL` under which gateways reach it, the claim iss (default http:// and the address)")
	f.StringVar(&key, "key", "", "PEM `file` with the private key; made if missing (default: a new key that is kept nowhere)")
	lifetimeFlag(c, &lifetime)
	return c
}

// devAudience is for whom the issuer's tokens are, if no other audience is asked for.
const devAudience = "agents"

func newDevAgent() *cobra.Command {
	var listen, issuer string
	c := &cobra.Command{
		Use:   "agent",
		Short: "Run the echo agent alone",
		Args:  takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return err
			}
			defer l.Close()
			return untilSignal(c.Context(), func(ctx context.Context) error {
				var verify dev.Verify
				trust := "it trusts x-user-id, so let only the gateway reach it"
				if issuer != "" {
					if verify, err = dev.NewVerify(ctx, issuer, devAudience); err != nil {
						return usageError{err}
					}
					trust = "it verifies the forwarded token against " + issuer
				}
				fmt.Fprintf(c.OutOrStdout(), "agent on %s; %s\n", l.Addr(), trust)
				return dev.NewAgent(verify).Serve(ctx, l)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&listen, "listen", "127.0.0.1:8081", "`address`")
	f.StringVar(&issuer, "issuer", "", "`URL` of the development issuer; the agent then verifies each forwarded token itself (default: "+
		"it trusts x-user-id)")
	return c
}

// untilSignal runs f with a context that SIGINT or SIGTERM ends.
func untilSignal(ctx context.Context, f func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return f(ctx)
}

// devConfig is the gateway's configuration: a file like any other, so that explain can be tried
// on it.
var devConfig = template.Must(template.New("").Parse(`listen: {{.Listen}}
{{- if .Cert}}
tls: { certFile: {{.Cert}}, keyFile: {{.Key}} }
{{- end}}
admin: { listen: "127.0.0.1:0" }
routes:
  - path: {{.Path}}
    upstream: "{{.Agent}}"
    allowedOrigins: ["*"] # a page on another port, such as a front end under development, may read each answer
    protectedResource: { scopes: ["agents:access"] } # MCP clients find the issuer, and log in
  - { path: /dev, upstream: "{{.Issuer}}", public: true } # the page, same-origin with the gateway
authentication:
  jwt:
    issuer: {{.Issuer}}
    audiences: [{{.Audience}}]
    clockSkew: 0s # so that a token's end is seen when it comes
  authorization:
    requiredClaims:
      - { claim: scope, values: ["agents:access"] }
log: { format: text, level: info }
`))

// devSettings is what devConfig has to be told.
type devSettings struct{ Listen, Cert, Key, Path, Agent, Issuer, Audience string }

// runDev runs issuer, agent and gateway until a signal.
func runDev(ctx context.Context, o devOptions, stdout, stderr io.Writer) (err error) {
	own, err := ownAgent(o.upstream)
	if err != nil {
		return err
	}
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

	l, err := listenNear("127.0.0.1:9000", stdout)
	if err != nil {
		return err
	}
	defer l.Close()
	settings := devSettings{Listen: o.listen, Issuer: "http://" + l.Addr().String(), Audience: devAudience}
	issuer, err := dev.NewIssuer(settings.Issuer, signer, o.lifetime)
	if err != nil {
		return err
	}
	wg.Go(func() { issuer.Serve(ctx, l) })

	socket := "/echo/ws" // the path of a WebSocket at the gateway
	if own != nil {
		settings.Path, settings.Agent = "/", own.Scheme+"://"+own.Host
		socket = cmp.Or(own.EscapedPath(), "/")
		if conn, err := net.DialTimeout("tcp", own.Host, time.Second); err == nil {
			conn.Close()
		} else {
			fmt.Fprintf(stdout, "Nothing answers at %s yet: start your agent.\n", settings.Agent)
		}
	} else {
		verify, err := dev.NewVerify(ctx, settings.Issuer, settings.Audience)
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		settings.Path, settings.Agent = "/echo", "http://"+l.Addr().String()
		wg.Go(func() { dev.NewAgent(verify).Serve(ctx, l) })
	}

	if o.listen == "" {
		l, err := listenNear("127.0.0.1:8080", stdout)
		if err != nil {
			return err
		}
		settings.Listen = l.Addr().String()
		l.Close() // for the gateway
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
	config, err := load(config.Sources{File: file})
	if err != nil {
		return err
	}
	log := newLines(config.Log, stderr)
	defer log.Close()
	g, err := compile(config, log)
	if err != nil {
		return err
	}
	if err := g.Listen(); err != nil {
		return err
	}
	if err := g.Refresh(ctx); err != nil { // before anything is printed that needs the keys
		return err
	}
	printDev(stdout, g.Addr().String(), socket, o, settings, file)
	return serve(ctx, g, signals)
}

// ownAgent is the developer's own agent: a URL whose path, if it has one, is that of its
// WebSocket. It is nil if there is none.
func ownAgent(upstream string) (*url.URL, error) {
	if upstream == "" {
		return nil, nil
	}
	wrong := usageError{fmt.Errorf("--upstream %q: want the URL of an agent, such as http://localhost:3000 or ws://localhost:3000/chat",
		upstream)}
	u, err := url.Parse(upstream)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, wrong
	}
	port := ""
	switch u.Scheme {
	case "http", "ws":
		u.Scheme, port = "http", "80"
	case "https", "wss":
		u.Scheme, port = "https", "443"
	default:
		return nil, wrong
	}
	u.Host = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
	return u, nil
}

// listenNear listens on addr, or if that is in use on any free port of its host, and tells w
// which.
func listenNear(addr string, w io.Writer) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if l, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
		return nil, err
	}
	_, using, err := net.SplitHostPort(l.Addr().String())
	fmt.Fprintf(w, "%s is in use, using %s\n", port, using)
	return l, err
}

func writeConfig(file string, settings any) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(devConfig.Execute(f, settings), f.Close())
}

// printDev prints what to paste. Websocat takes all that follows a -H for headers, so its URL
// comes first, and its -n keeps the end of the input from ending the connection before the
// answer is there.
func printDev(w io.Writer, addr, socket string, o devOptions, s devSettings, file string) {
	at, base, agent, page := "ws://"+addr+socket, "http://"+addr+"/dev/", "an agent that echoes.", ""
	curl, wscat, websocat := "curl -s", "wscat", "websocat"
	if o.tls {
		at, base = "wss://"+addr+socket, "https://"+addr+"/dev/"
		curl, wscat, websocat = "curl -sk", "wscat --no-check", "websocat --insecure"
	}
	if o.upstream != "" {
		agent = "your agent at " + s.Agent + ", which gets the user\nas x-user-id, x-user-email and x-user-roles, and the token as " +
			"Authorization: Bearer."
		page = "?ws=" + url.QueryEscape(at)
	}
	fmt.Fprintf(w, `The gateway is at %[1]s, before %[2]s
The issuer is %[3]s; a token lives for %[4]v, and is for the audience %[5]s.

In a terminal:

  export TOKEN=$(%[6]s %[7]stoken)

  %[8]s -c %[1]s -H "Authorization: Bearer $TOKEN" -x hello -w 1

  echo hello | %[9]s -n --max-messages-rev 2 %[1]s -H "Authorization: Bearer $TOKEN"

Another user, and a connection that stays open until its token ends, after 10 s:

  %[8]s -c %[1]s -H "Authorization: Bearer $(%[6]s '%[7]stoken?sub=alice&roles=admin&lifetime=10')"

In a browser:

  %[7]s%[10]s

The same page on another origin, as your front end is:

  %[3]s/?ws=%[14]s

Why is a request let in, or refused? Change a letter of the token and ask:

  %[11]s explain --config %[12]s --path %[13]s --token "$TOKEN"

Ctrl-C ends it.

`, quote(at), agent, s.Issuer, o.lifetime, s.Audience, curl, base, wscat, websocat, page,
		self(), quote(file), quote(socket), url.QueryEscape(at))
}

// self is how a shell calls this program again: by its name if that is what it finds under it,
// else by its path, but for what go run made in its cache, which another go run does.
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
var plainWord = regexp.MustCompile(`^[\pL\pN/._+:-]+$`)

// quote is s as one word of a shell.
func quote(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// selfSigned makes a certificate for this machine's loopback names and its key.
func selfSigned(certFile, keyFile string) error {
	now := time.Now()
	cert, key, err := selfsigned.New(now.UnixNano(), now.Add(30*24*time.Hour), "localhost")
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(certFile, cert, 0o600), os.WriteFile(keyFile, key, 0o600))
}
