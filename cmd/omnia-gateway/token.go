package main

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/outcome"
)

func newToken() *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Make a token or a client key, or take a token apart",
		Args:  noCommand,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newMint(), newKey(), newInspect())
	return c
}

func newMint() *cobra.Command {
	var key, issuer, subject string
	var audiences, claims []string
	var lifetime time.Duration
	c := &cobra.Command{
		Use:   "mint",
		Short: "Make a token with a local key, for development",
		Long: "Mint signs a token with the private key in a PEM file (PKCS #8; RSA, P-256 or Ed25519), which is\n" +
			"made if it is not there. `omnia-gateway dev issuer --key FILE` publishes the same key.",
		Example: "  omnia-gateway token mint --key dev.pem --issuer http://127.0.0.1:9000 --subject alice --audience agents --claim " +
			"'roles=[\"admin\"]'",
		Args: takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := claimsOf(claims)
			if err != nil {
				return usageError{err}
			}
			signer, err := signerIn(key)
			if err != nil {
				return err
			}
			now := time.Now()
			registered := map[string]any{
				"iss": issuer, "sub": subject, "iat": now.Unix(), "exp": now.Add(lifetime).Unix(), "jti": newJTI(),
			}
			if len(audiences) > 0 {
				registered["aud"] = audiences
			}
			for name, v := range registered {
				if _, said := all[name]; !said {
					all[name] = v
				}
			}
			token, err := signer.Sign(all)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), token)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&key, "key", "", "PEM `file` of the private key; made if missing")
	f.StringVar(&issuer, "issuer", "", "claim iss, a `URL`")
	f.StringVar(&subject, "subject", "", "claim sub, a `name`")
	f.StringSliceVar(&audiences, "audience", nil, "claim aud, a `name`; may be repeated")
	f.DurationVar(&lifetime, "lifetime", time.Hour, "until exp; negative for a token that has expired")
	f.StringArrayVar(&claims, "claim", nil, "further `name=value`, the value as JSON or else as text; may be repeated")
	for _, name := range []string{"key", "issuer", "subject"} {
		c.MarkFlagRequired(name)
	}
	return c
}

// keyPrefix begins every client key that token key makes, so that scanners find one that has
// leaked.
const keyPrefix = "omniagw_"

func newKey() *cobra.Command {
	var id, expires string
	var claims []string
	c := &cobra.Command{
		Use:   "key",
		Short: "Make a client key and its entry for the configuration",
		Long: "Key makes a client key of 256 random bits. It prints the key, which is kept nowhere, and then the\n" +
			"entry for the file that authentication.clientKeys names. The entry has only a hash of the key.",
		Example: "  omnia-gateway token key --id ci --claim 'roles=[\"user\"]' --expires 2027-01-31T00:00:00Z",
		Args:    takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			entry := config.ClientKey{ID: id}
			var err error
			if entry.Claims, err = claimsOf(claims); err != nil {
				return usageError{err}
			}
			if expires != "" {
				if entry.Expires, err = time.Parse(time.RFC3339, expires); err != nil {
					return usageError{fmt.Errorf("--expires %q: want date, time and zone, such as 2027-01-31T00:00:00Z", expires)}
				}
			}
			var secret [32]byte
			rand.Read(secret[:])
			key := keyPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
			entry.KeyHash = config.KeyHash(key)
			text, err := entry.YAML()
			if err != nil {
				return err
			}
			if err := auth.CheckClientKey(entry); err != nil {
				return fmt.Errorf("the entry: %w", err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "key %s\nentry for the list keys of authentication.clientKeys.file:\n%s", key, text)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&id, "id", "", "`name` of the client, its claim sub unless --claim says another")
	f.StringVar(&expires, "expires", "", "`time` at which the key ends, such as 2027-01-31T00:00:00Z; none: never")
	f.StringArrayVar(&claims, "claim", nil, "`name=value`, the value as JSON or else as text; may be repeated")
	c.MarkFlagRequired("id")
	return c
}

// claimsOf reads claims of the form name=value.
func claimsOf(list []string) (map[string]any, error) {
	all := map[string]any{}
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--claim %q: want name=value", s)
		}
		all[name] = claimValue(value)
	}
	return all, nil
}

// claimValue returns a value as JSON if it is JSON, else as text.
func claimValue(s string) any {
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() {
		return s
	}
	return v
}

func newJTI() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// signerIn returns the key in a PEM file. If there is no file, it writes a new key there; with
// file "" the new key is not written.
func signerIn(file string) (*auth.Signer, error) {
	if file == "" {
		return auth.GenerateSigner("ES256")
	}
	text, err := os.ReadFile(file)
	if err == nil {
		s, err := auth.LoadSigner(text)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", file, err)
		}
		return s, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	s, err := auth.GenerateSigner("ES256")
	if err != nil {
		return nil, err
	}
	if text, err = s.PEM(); err != nil {
		return nil, err
	}
	return s, os.WriteFile(file, text, 0o600)
}

func newInspect() *cobra.Command {
	var from config.Sources
	c := &cobra.Command{
		Use:   "inspect TOKEN|-",
		Short: "Take a token apart, and judge it if a configuration is given",
		Long: "Inspect prints a token's header and claims. With --config it also verifies it as the gateway\n" +
			"would and names the check that it fails; the exit status is then 1. Without, nothing is\n" +
			"verified. With - the token is read from standard input.",
		Args: takes(1),
		RunE: func(c *cobra.Command, args []string) error {
			token, err := tokenFrom(args[0], c.InOrStdin())
			if err != nil {
				return usageError{err}
			}
			return inspect(c, token, from)
		},
	}
	configFlags(c, &from)
	return c
}

// tokenFrom returns the token that an argument means: the argument itself, or for "-" the first
// line of standard input, which keeps it out of the list of processes.
func tokenFrom(arg string, stdin io.Reader) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	line, err := bufio.NewReader(stdin).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read token: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// inspect prints a token, and with a configuration how the gateway judges it.
func inspect(c *cobra.Command, token string, from config.Sources) error {
	out := c.OutOrStdout()
	header, claims, err := auth.Inspect(token)
	if err != nil {
		printFailed(out, outcome.Malformed, err.Error())
		return errNo
	}
	for _, part := range []struct {
		name string
		of   map[string]any
	}{{"header", header}, {"claims", claims}} {
		text, err := json.MarshalIndent(part.of, "", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s %s\n", part.name, text)
	}
	for _, name := range []string{"nbf", "iat", "exp"} {
		if n, ok := claims[name].(json.Number); ok {
			if seconds, err := n.Float64(); err == nil {
				at := time.Unix(int64(seconds), 0)
				fmt.Fprintf(out, "%s is %s, %s\n", name, at.UTC().Format(time.RFC3339), fromNow(at))
			}
		}
	}
	if from.Environ = os.Environ(); len(from.Files()) == 0 {
		fmt.Fprintln(out, "nothing was verified; --config does that")
		return nil
	}
	conf, err := load(from)
	if err != nil {
		return err
	}
	keys := auth.NewKeys(auth.Options{})
	v, err := auth.New(conf.Authentication, conf.Limits.MaxTokenBytes, keys, nil)
	if err != nil {
		return err
	}
	if err := keys.Refresh(c.Context()); err != nil {
		fmt.Fprintf(out, "note: %v\n", err)
	}
	id, err := v.Verify(c.Context(), auth.Credential{Token: token}, func(check, detail string) { printPassed(out, check, detail) })
	if err == nil {
		err = v.Principal(id)
	}
	if refusal, ok := errors.AsType[*outcome.Refusal](err); ok {
		printFailed(out, refusal.Reason, refusal.Text())
		return errNo
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "the token is good")
	return nil
}

// fromNow returns how far away a time is, in words.
func fromNow(t time.Time) string {
	d := time.Until(t).Round(time.Second)
	if d < 0 {
		return (-d).String() + " ago"
	}
	return "in " + d.String()
}
