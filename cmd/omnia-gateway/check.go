package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway"
)

func newCheck() *cobra.Command {
	var from config.Sources
	var online, live bool
	var running operator
	form := text
	c := &cobra.Command{
		Use:   "check",
		Short: "Find every problem of a configuration",
		Long: "Check loads and compiles a configuration as serve would and prints every problem with its place,\n" +
			"one on each line. With --online it also fetches the issuers' keys and connects to the agents\n" +
			"whose address is fixed. With -o json it prints one object with \"ok\", \"problems\" (file, line,\n" +
			"column, key, text and hint, as far as they are known) and \"notes\". With --live it asks a running\n" +
			"gateway what a reload of this configuration would do: how many live sessions it would end and\n" +
			"why, or what needs a restart. The exit status is 0 if all is well, else 1.",
		Args: takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			found, err := examine(c, from, online)
			if err == nil && live {
				running.config = from.File
				err = found.preview(c, running)
			}
			if form == asJSON {
				return found.printJSON(c.OutOrStdout(), err)
			}
			return found.print(c.OutOrStdout(), err)
		},
	}
	configFlags(c, &from)
	c.Flags().BoolVar(&online, "online", false, "also fetch the issuers' keys and connect to the agents")
	c.Flags().BoolVar(&live, "live", false, "also ask the running gateway what a reload would do to its sessions")
	running.flags(c)
	form.flag(c)
	return c
}

// findings are what check has to say of a configuration that is good.
type findings struct {
	config  *config.Config
	notes   []string
	verdict string
}

// examine looks at a configuration. The error is everything that is wrong with it.
func examine(c *cobra.Command, from config.Sources, online bool) (findings, error) {
	conf, err := load(from)
	if err != nil {
		return findings{}, err
	}
	g, err := gateway.New(conf, gateway.Options{})
	if err != nil {
		return findings{}, err
	}
	found := findings{config: conf, verdict: "the configuration is good"}
	notes, err := g.CheckCertificates()
	err = errors.Join(g.CheckFetch(), err)
	found.notes = slices.Concat(conf.Notes, notes)
	if online {
		err = errors.Join(err, found.ask(c.Context(), g, conf))
	}
	return found, err
}

// ask asks issuers, agents and Redis. The verdict speaks only of those that were asked.
func (f *findings) ask(ctx context.Context, g *gateway.Gateway, conf *config.Config) error {
	var faults []error
	if conf.Authentication.Enabled {
		issuers, err := g.CheckIssuers(ctx)
		if faults = append(faults, err); issuers > 0 {
			f.verdict += ", every issuer gives keys"
		}
	}
	agents, notAsked, err := g.CheckUpstreams(ctx)
	for _, route := range notAsked {
		f.notes = append(f.notes, fmt.Sprintf("route %s: not asked: its agent's address has a template", route))
	}
	switch {
	case agents > 0 && len(notAsked) > 0:
		f.verdict += ", every agent with a fixed address can be reached"
	case agents > 0:
		f.verdict += ", every agent can be reached"
	}
	faults = append(faults, err)
	redis, err := g.CheckRedis(ctx)
	if redis {
		f.verdict += ", Redis answers"
	}
	return errors.Join(append(faults, err)...)
}

// preview asks a running gateway what a reload would do. The error tells that it would do nothing.
func (f *findings) preview(c *cobra.Command, running operator) error {
	base := config.Default()
	var answer struct {
		Sessions     int
		Ending       map[string]int
		Problems     []struct{ Text string }
		NeedsRestart []string
	}
	if err := running.ask(c, "POST", "/check", config.Changes(f.config, &base).String(), &answer); err != nil {
		return err
	}
	switch {
	case len(answer.NeedsRestart) > 0:
		return fmt.Errorf("a reload would change nothing, because this needs a restart: %s",
			strings.Join(answer.NeedsRestart, ", "))
	case len(answer.Problems) > 0:
		return fmt.Errorf("the running gateway would refuse it: %s", answer.Problems[0].Text)
	}
	ending, reasons := 0, []string{}
	for _, reason := range slices.Sorted(maps.Keys(answer.Ending)) {
		ending += answer.Ending[reason]
		reasons = append(reasons, fmt.Sprintf("%d %s", answer.Ending[reason], reason))
	}
	note := fmt.Sprintf("a reload would end %d of %d live sessions", ending, answer.Sessions)
	if ending > 0 {
		note += ": " + strings.Join(reasons, ", ")
	}
	f.notes = append(f.notes, note)
	return nil
}

// print writes the findings for a person. It returns err, which is printed like that of any
// command.
func (f findings) print(w io.Writer, err error) error {
	for _, note := range f.notes {
		fmt.Fprintln(w, "note:", note)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, f.verdict)
	return err
}

// printJSON writes the findings for a program.
func (f findings) printJSON(w io.Writer, err error) error {
	report := struct {
		OK       bool            `json:"ok"`
		Problems config.Problems `json:"problems"`
		Notes    []string        `json:"notes"`
	}{err == nil, config.Problems{}, append([]string{}, f.notes...)}
	for _, err := range config.Each(err) {
		if problems, ok := errors.AsType[config.Problems](err); ok {
			report.Problems = append(report.Problems, problems...)
			continue
		}
		if problem, ok := errors.AsType[config.Problem](err); ok {
			report.Problems = append(report.Problems, problem)
			continue
		}
		report.Problems = append(report.Problems, config.Problem{Text: err.Error()})
	}
	if printed := printJSON(w, report); printed != nil || err == nil {
		return printed
	}
	return errNo
}
