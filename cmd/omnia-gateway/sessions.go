package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// liveSession is what a person is shown of a session.
type liveSession struct {
	Session, Kind, Route, Agent, Issuer, Subject, Client string

	Replica string // "": the gateway is the only one

	Start   time.Time
	Expires *time.Time
}

// filters choose sessions.
type filters struct{ issuer, subject, agent, route string }

func (f *filters) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.issuer, "issuer", "", "only sessions of this `issuer`")
	c.Flags().StringVar(&f.subject, "subject", "", "only sessions of this `user`")
	c.Flags().StringVar(&f.agent, "agent", "", "only sessions with this `agent`: the label that {agent} took")
	c.Flags().StringVar(&f.route, "route", "", "only sessions of the route with this `path`")
}

// query returns the filters that are given.
func (f *filters) query() url.Values {
	query := url.Values{}
	for name, value := range map[string]string{"issuer": f.issuer, "subject": f.subject, "agent": f.agent, "route": f.route} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return query
}

func newSessions() *cobra.Command {
	list := newSessionsList()
	c := &cobra.Command{
		Use:   "sessions",
		Short: "List or end the live sessions of a running gateway",
		Long:  "Sessions asks the admin listener of a running gateway. Without a command it lists.",
		Args:  noCommand,
		RunE:  list.RunE,
	}
	c.Flags().AddFlagSet(list.Flags())
	c.AddCommand(list, newSessionsEnd())
	return c
}

func newSessionsList() *cobra.Command {
	var running operator
	var chosen filters
	form := text
	c := &cobra.Command{
		Use:   "list",
		Short: "List the live sessions",
		Long: "List prints the live sessions of all replicas, the longest first, or with -o json all that /sessions\n" +
			"tells of each. Several filters must all be true.",
		Args: takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			query := chosen.query()
			query.Set("cluster", "true")
			all := []json.RawMessage{}
			header, err := running.askAll(c, "GET", "/sessions?"+query.Encode(), nil, &all)
			if err != nil {
				return err
			}
			if missing := header.Get("X-Gateway-Missing-Replicas"); missing != "" {
				fmt.Fprintln(c.ErrOrStderr(), "note: no answer from these replicas, whose sessions are missing:", missing)
			}
			if form == asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			shown := make([]liveSession, len(all))
			for n, raw := range all {
				if err := json.Unmarshal(raw, &shown[n]); err != nil {
					return fmt.Errorf("/sessions: %w", err)
				}
			}
			return printSessions(c.OutOrStdout(), shown, time.Now())
		},
	}
	running.running(c)
	chosen.flags(c)
	form.flag(c)
	return c
}

// printSessions prints a table of sessions. What clients and issuers have named is quoted where it
// could do something to a terminal.
func printSessions(w io.Writer, all []liveSession, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	columns := []string{"SESSION", "KIND", "ROUTE", "AGENT", "SUBJECT", "CLIENT", "AGE", "EXPIRES IN"}
	several := slices.ContainsFunc(all, func(s liveSession) bool { return s.Replica != "" })
	if several {
		columns = append(columns, "REPLICA")
	}
	fmt.Fprintln(table, strings.Join(columns, "\t"))
	for _, s := range all {
		left := "never"
		if s.Expires != nil {
			left = s.Expires.Sub(now).Round(time.Second).String()
		}
		cells := []string{s.Session, s.Kind, s.Route, s.Agent, s.Subject, s.Client, now.Sub(s.Start).Round(time.Second).String(), left}
		if several {
			cells = append(cells, s.Replica)
		}
		for n, cell := range cells {
			cells[n] = shown(cell)
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	return table.Flush()
}

// shown returns a word for a cell of a table.
func shown(word string) string {
	if quoted := outcome.Brief(word); word == "" || quoted != `"`+word+`"` || strings.Contains(word, " ") {
		return quoted
	}
	return word
}

func newSessionsEnd() *cobra.Command {
	var running operator
	var chosen filters
	form := text
	c := &cobra.Command{
		Use:   "end [SESSION…]",
		Short: "End live sessions",
		Long: "End ends the sessions with these ids, or those that all filters choose, with 1000 \"ended\". Their\n" +
			"clients may connect again; omnia-gateway revoke keeps them out. Replicas that have given no answer\n" +
			"are named; they end their sessions when they are back.",
		RunE: func(c *cobra.Command, ids []string) error {
			query := chosen.query()
			if (len(ids) == 0) == (len(query) == 0) {
				return usageError{errors.New("name sessions by their ids, or by filters")}
			}
			paths := []string{"/sessions?" + query.Encode()}
			if len(ids) > 0 {
				paths = nil
			}
			for _, id := range ids {
				paths = append(paths, "/sessions/"+url.PathEscape(id))
			}
			type summary struct {
				Ended   int      `json:"ended"`
				Missing []string `json:"missing,omitempty"` // replicas that gave no answer
			}
			var all summary
			var faults []error
			for _, path := range paths {
				var answer summary
				faults = append(faults, running.ask(c, "DELETE", path, nil, &answer))
				all.Ended += answer.Ended
				all.Missing = append(all.Missing, answer.Missing...)
			}
			slices.Sort(all.Missing)
			if all.Missing = slices.Compact(all.Missing); len(all.Missing) > 0 {
				missing := strings.Join(all.Missing, ", ")
				fmt.Fprintln(c.ErrOrStderr(), "note: no answer from these replicas, which will hear of it:", missing)
			}
			if form == asJSON {
				faults = append(faults, printJSON(c.OutOrStdout(), all))
			} else if _, err := fmt.Fprintln(c.OutOrStdout(), "sessions that end:", all.Ended); err != nil {
				faults = append(faults, err)
			}
			return errors.Join(faults...)
		},
	}
	running.running(c)
	chosen.flags(c)
	form.flag(c)
	return c
}
