package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/gateway"
)

func newServe() *cobra.Command {
	var from config.Sources
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: "Serve runs the gateway until a signal. It logs to standard error, one line for each refusal and\n" +
			"each session that ended. SIGTERM drains, SIGINT does so within a second, a second signal ends\n" +
			"everything at once; SIGHUP reads configuration and certificate again.",
		Args: takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			signals, stop := catchSignals()
			defer stop()
			limitMemory()
			config, err := load(from)
			if err != nil {
				return err
			}
			log := newLines(config.Log, c.ErrOrStderr())
			defer log.Close()
			g, err := compile(config, log)
			if err != nil {
				return err
			}
			if err := g.Listen(); err != nil {
				return err
			}
			return serve(c.Context(), g, signals)
		},
	}
	configFlags(c, &from)
	return c
}

// configFlags are the flags that all commands with a configuration share.
func configFlags(c *cobra.Command, from *config.Sources) {
	c.Flags().StringVarP(&from.File, "config", "c", "",
		"configuration `file`, or that of OMNIA_GATEWAY_CONFIG; variables OMNIA_GATEWAY_* win over it")
	c.Flags().StringArrayVar(&from.Values, "values", nil,
		"Helm values `file` whose block authentication is taken; may be repeated, later ones win")
}

// load reads the configuration that the flags of a command and the environment name.
func load(from config.Sources) (*config.Config, error) {
	from.Environ = os.Environ()
	c, err := config.Load(from)
	set := func(variable string) bool { return strings.HasPrefix(variable, "OMNIA_GATEWAY_") }
	if err != nil && len(from.Files()) == 0 && !slices.ContainsFunc(from.Environ, set) {
		err = fmt.Errorf("%w\nname a file with --config; or run omnia-gateway dev, which needs none", err)
	}
	return c, err
}

// compile makes a gateway of a configuration, and logs what its operator should know of it.
func compile(c *config.Config, log *lines) (*gateway.Gateway, error) {
	for _, note := range c.Notes {
		log.logger.Warn("configuration", "note", note)
	}
	return gateway.New(c, gateway.Options{Log: log.logger, LogDropped: log.Dropped})
}

// newLog is the logger of a configuration that was found good.
func newLog(c config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	level.UnmarshalText([]byte(c.Level))
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// atTerminal is how long a drain may take after Ctrl-C at a terminal.
const atTerminal = time.Second

// catchSignals has the signals that serve understands wait for it, from before it is said that
// the gateway is there. None ends the process by itself until stop is called.
func catchSignals() (signals <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 4)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}

// serve runs a gateway that listens until a signal, or ctx, ends it.
func serve(ctx context.Context, g *gateway.Gateway, signals <-chan os.Signal) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	leave := make(chan gateway.Departure, 1)
	wg.Go(func() {
		for leaving := false; ; {
			select {
			case <-ctx.Done():
				return
			case s := <-signals:
				switch {
				case s == syscall.SIGHUP:
					wg.Go(func() { g.Reload(ctx) }) // reports by itself
				case leaving:
					cancel()
				case s == syscall.SIGINT:
					leaving = true
					leave <- gateway.Departure{Window: min(g.Config().Session.DrainTimeout, atTerminal)}
				default:
					leaving = true
					leave <- gateway.NewDeparture(g.Config().Session)
				}
			}
		}
	})
	return g.Run(ctx, leave)
}
