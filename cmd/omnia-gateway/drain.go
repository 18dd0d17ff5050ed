package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newDrain() *cobra.Command {
	var running operator
	var undo bool
	c := &cobra.Command{
		Use:   "drain",
		Short: "Have a running gateway end its sessions, and stay",
		Long: "Drain asks the admin listener of a running gateway to drain as for SIGTERM, but without an end of\n" +
			"the process: it is not ready, takes no new WebSockets after session.drainDelay, and ends the live\n" +
			"sessions within session.drainTimeout. It does not wait for that. With --undo the gateway is ready\n" +
			"again, and sessions that were not told yet stay.",
		Args: takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			method := "POST"
			if undo {
				method = "DELETE"
			}
			var answer struct {
				Draining bool
				Sessions int
			}
			if err := running.ask(c, method, "/drain", nil, &answer); err != nil {
				return err
			}
			state := "not draining"
			if answer.Draining {
				state = "draining"
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s, live sessions: %d\n", state, answer.Sessions)
			return err
		},
	}
	c.Flags().BoolVar(&undo, "undo", false, "take the drain back")
	running.running(c)
	return c
}
