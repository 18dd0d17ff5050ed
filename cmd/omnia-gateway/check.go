package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/altairalabs/omnia-gateway/config"
)

func newCheck() *cobra.Command {
	var from config.Sources
	var online bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Find every problem of a configuration",
		Long: "Check loads and compiles a configuration as serve would and prints every problem with its place, one a line. With --online it also fetches\n" +
			"the issuers' keys and connects to the agents whose address is fixed. The exit status is 0 if all is well, else 1.",
		Args: takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			g, conf, err := build(from, io.Discard)
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			for _, note := range conf.Notes {
				fmt.Fprintln(out, "note:", note)
			}
			if online {
				if err := errors.Join(g.Refresh(c.Context()), g.CheckUpstreams(c.Context())); err != nil {
					return err
				}
				_, err = fmt.Fprintln(out, "the configuration is good, every issuer gives keys, every agent can be reached")
				return err
			}
			_, err = fmt.Fprintln(out, "the configuration is good")
			return err
		},
	}
	configFlags(c, &from)
	c.Flags().BoolVar(&online, "online", false, "also fetch the issuers' keys and connect to the agents")
	return c
}
