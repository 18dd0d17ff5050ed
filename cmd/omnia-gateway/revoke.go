package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// revocation is one of those of a running gateway, without what is not shown.
type revocation struct {
	ID           string    `json:"id,omitempty"`
	Issuer       string    `json:"issuer"`
	Subject      string    `json:"subject,omitempty"`
	JTI          string    `json:"jti,omitempty"`
	SID          string    `json:"sid,omitempty"`
	IssuedBefore time.Time `json:"issuedBefore,omitzero"`
	Until        time.Time `json:"until,omitzero"`
	Logout       bool      `json:"logout,omitempty"`
	Created      time.Time `json:"created,omitzero"`
	Changed      time.Time `json:"changed,omitzero"`
}

func newRevoke() *cobra.Command {
	var running operator
	var v revocation
	var before, until string
	var lasts time.Duration
	form := text
	c := &cobra.Command{
		Use:   "revoke --issuer ISSUER",
		Short: "Bar tokens, and end their sessions, on a running gateway",
		Long: "Revoke asks the admin listener of a running gateway to refuse tokens that are otherwise valid, and\n" +
			"to end their live sessions with 3000 \"revoked\": those of a user (--subject), of a login at the\n" +
			"issuer (--sid), one token (--jti), or all that were issued before a time (--issued-before), which\n" +
			"may stand beside --subject. It prints the id of the revocation, by which \"revoke lift\" ends it.",
		Example: "  omnia-gateway revoke --issuer https://issuer.example.com --subject alice\n" +
			"  omnia-gateway revoke --issuer https://issuer.example.com --subject alice --issued-before now\n" +
			"  omnia-gateway revoke --issuer https://issuer.example.com --sid 7f3a --for 72h",
		Args: func(c *cobra.Command, args []string) error {
			if err := noCommand(c, args); err != nil {
				return err
			}
			return takes(0)(c, args)
		},
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			now := time.Now()
			if v.IssuedBefore, err = moment(before, now); err != nil {
				return usageError{fmt.Errorf("--issued-before: %w", err)}
			}
			if v.Until, err = moment(until, now); err != nil {
				return usageError{fmt.Errorf("--until: %w", err)}
			}
			switch {
			case lasts != 0 && until != "":
				return usageError{errors.New("--until and --for: give one of them")}
			case lasts != 0:
				v.Until = now.Add(lasts)
			}
			return revoke(c, running, v, form)
		},
	}
	c.Flags().StringVar(&v.Issuer, "issuer", "", "`issuer` of the tokens, exactly as in the configuration; \"client keys\" for those")
	c.Flags().StringVar(&v.Subject, "subject", "", "tokens of this `user`, as omnia-gateway sessions shows it")
	c.Flags().StringVar(&v.SID, "sid", "", "tokens of this `login` at the issuer")
	c.Flags().StringVar(&v.JTI, "jti", "", "the token with this `id`")
	c.Flags().StringVar(&before, "issued-before", "", "only tokens issued before this `time`, such as 2026-11-26T09:00:00Z, or now")
	c.Flags().StringVar(&until, "until", "", "`time` at which the revocation ends; by default 24 hours from now")
	c.Flags().DurationVar(&lasts, "for", 0, "`duration` after which it ends")
	c.MarkFlagRequired("issuer")
	running.running(c)
	form.flag(c)
	c.AddCommand(newRevokeList(), newRevokeLift())
	return c
}

// moment reads a time in RFC 3339, or the word now; zero for "".
func moment(s string, now time.Time) (time.Time, error) {
	switch s {
	case "":
		return time.Time{}, nil
	case "now":
		return now.UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q: want a time such as %s", s, now.UTC().Format(time.RFC3339))
	}
	return t, nil
}

// revoke makes a revocation.
func revoke(c *cobra.Command, running operator, v revocation, form output) error {
	var made struct {
		revocation
		Ended int    `json:"ended"`
		Note  string `json:"note,omitempty"`
	}
	if err := running.ask(c, "POST", "/revocations", v, &made); err != nil {
		return err
	}
	if form == asJSON {
		return printJSON(c.OutOrStdout(), made)
	}
	if made.Note != "" {
		fmt.Fprintln(c.ErrOrStderr(), "note:", made.Note)
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "revoked until %s, sessions that end: %d\nid %s\n", stamp(made.Until), made.Ended, made.ID)
	return err
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func newRevokeList() *cobra.Command {
	var running operator
	form := text
	c := &cobra.Command{
		Use:   "list",
		Short: "List the revocations in force",
		Args:  takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			all := []revocation{}
			if err := running.ask(c, "GET", "/revocations", nil, &all); err != nil {
				return err
			}
			if form == asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			return printRevocations(c.OutOrStdout(), all)
		},
	}
	running.running(c)
	form.flag(c)
	return c
}

// printRevocations prints a table of revocations.
func printRevocations(w io.Writer, all []revocation) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tISSUER\tBARS\tUNTIL\tBY")
	for _, v := range all {
		var bars []string
		for _, named := range [][2]string{{"subject", v.Subject}, {"sid", v.SID}, {"jti", v.JTI}} {
			if named[1] != "" {
				bars = append(bars, named[0]+" "+shown(named[1]))
			}
		}
		if !v.IssuedBefore.IsZero() {
			bars = append(bars, "issued before "+stamp(v.IssuedBefore))
		}
		by := "operator"
		if v.Logout {
			by = "logout"
		}
		fmt.Fprintln(table, strings.Join([]string{v.ID, shown(v.Issuer), strings.Join(bars, ", "), stamp(v.Until), by}, "\t"))
	}
	return table.Flush()
}

func newRevokeLift() *cobra.Command {
	var running operator
	c := &cobra.Command{
		Use:   "lift ID",
		Short: "End a revocation before its time",
		Args:  takes(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := running.ask(c, "DELETE", "/revocations/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			_, err := fmt.Fprintln(c.OutOrStdout(), "lifted")
			return err
		},
	}
	running.running(c)
	return c
}
