// Omnia-gateway is an authenticating gateway in front of AI agents that speak WebSocket.
//
// # Usage
//
//	omnia-gateway [serve] [--config FILE]     run the gateway
//	omnia-gateway dev                         run it with an issuer and an echo agent
//	omnia-gateway check --config FILE         every problem of a configuration, with its place
//	omnia-gateway explain --path /a/ws        how the gateway judges a request, step by step
//	omnia-gateway token mint|key|inspect      make a token or a client key, or take a token apart
//	omnia-gateway istio export|import         the configuration as Istio's resources, and back
//	omnia-gateway health                      ask a running gateway; for container health checks
//	omnia-gateway drain [--undo]              have a running gateway end its sessions, and stay
//	omnia-gateway sessions [list|end]         the live sessions of a running gateway
//	omnia-gateway revoke [list|lift]          bar tokens on it, and end their sessions
//	omnia-gateway version
//
// The configuration is a YAML file, or OMNIA_GATEWAY_* variables, or both: a variable wins over
// the file.
//
// # Signals
//
// SIGTERM drains: not ready, no new connections, a Close to every session spread over
// session.drainTimeout, exit 0. SIGINT does the same within a second. A second signal ends
// everything at once. SIGHUP reads configuration and certificate again.
//
// # Exit status
//
// 0 for success; 1 if the configuration is bad, the gateway could not start, or the answer of a
// check is no; 2 for a wrong command line.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/altairalabs/omnia-gateway/internal/buildinfo"
)

// Exit statuses.
const (
	exitNo    = 1
	exitUsage = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main without the process: it takes the arguments and returns the exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	c, err := root.ExecuteC()
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errNo): // everything was printed already
		return exitNo
	}
	fmt.Fprintln(stderr, err)
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(stderr, "see %s --help\n", c.CommandPath())
		return exitUsage
	}
	return exitNo
}

// errNo is a command's "no": its output has the reason.
var errNo = errors.New("no")

// usageError is a mistake on the command line.
type usageError struct{ error }

func newRoot() *cobra.Command {
	serve := newServe()
	root := &cobra.Command{
		Use:   "omnia-gateway",
		Short: "An authenticating WebSocket gateway for AI agents",
		Long: "Omnia-gateway is a gateway in front of AI agents that speak WebSocket: it verifies the bearer\n" +
			"token, checks claims, tells the agent who is calling and relays frames for as long as the caller\n" +
			"may. Without a command it serves.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noCommand,
		RunE:          serve.RunE,

		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return emptyFlag(c.Flags()) },
	}
	root.Flags().AddFlagSet(serve.Flags())
	root.Version = buildinfo.Read().String()
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(serve, newDev(), newCheck(), newExplain(), newToken(), newIstio(), newHealth(), newDrain(), newSessions(),
		newRevoke(), newVersion())
	return root
}

// noCommand refuses a word that names no command.
func noCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	c.SuggestionsMinimumDistance = 2 // in letters; cobra sets it only where it judges the arguments itself
	err := fmt.Errorf("unknown command %q", args[0])
	if like := c.SuggestionsFor(args[0]); len(like) > 0 {
		err = fmt.Errorf("%w; did you mean %q?", err, like[0])
	}
	return usageError{err}
}

// emptyFlag refuses a flag that is given without text, as a shell does where a variable is not set.
// Taken as a flag that is not given, an empty --config would drop a file with its rules, and an
// empty --subject would make a revocation one of all users. An empty --token of explain is judged,
// as a gateway would: there is none.
func emptyFlag(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		if f.Name == "token" {
			return
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		if err == nil && slices.Contains(values, "") {
			err = usageError{fmt.Errorf("--%s: empty; give a value, or leave the flag out", f.Name)}
		}
	})
	return err
}

// takes asks for n arguments, and for the flags that are required: cobra's own complaint about
// those would not be a usageError.
func takes(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > n {
			return usageError{fmt.Errorf("unexpected argument %q", args[n])}
		}
		if len(args) < n {
			return usageError{fmt.Errorf("an argument is missing: %s", c.UseLine())}
		}
		if err := c.ValidateRequiredFlags(); err != nil {
			return usageError{err}
		}
		return nil
	}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), c.Root().Name(), buildinfo.Read())
			return err
		},
	}
}
