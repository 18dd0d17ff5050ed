package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/altairalabs/omnia-gateway/config"
)

func newHealth() *cobra.Command {
	var admin, file string
	var ready bool
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask a running gateway whether it is alive; for container health checks",
		Long: "Health asks the admin listener of a gateway on this machine and exits with 0 if all is well: an\n" +
			"image without a shell needs no other tool for its health check. The address is that of the flag,\n" +
			"else admin.listen of the configuration that serve would read: OMNIA_GATEWAY_ADMIN_LISTEN, the\n" +
			"file of --config or OMNIA_GATEWAY_CONFIG, or the default.",
		Args: takes(0),
		RunE: func(c *cobra.Command, _ []string) error {
			listen := admin
			if listen == "" {
				var err error
				if listen, err = config.AdminListen(config.Sources{File: file, Environ: os.Environ()}); err != nil {
					fmt.Fprintf(c.ErrOrStderr(), "%v\nasking %s\n", err, listen)
				}
			}
			addr, err := reachable(listen)
			if err != nil {
				return usageError{fmt.Errorf("admin listener: %w", err)}
			}
			path := "/healthz"
			if ready {
				path = "/readyz"
			}
			client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			answer, err := client.Get("http://" + addr + path)
			if err != nil {
				if e, ok := errors.AsType[*url.Error](err); ok {
					err = e.Err
				}
				return fmt.Errorf("no answer from an admin listener on %s: %w", addr, err)
			}
			defer answer.Body.Close()
			out := c.OutOrStdout()
			fmt.Fprintln(out, answer.Status)
			if answer.StatusCode != http.StatusOK {
				io.Copy(out, io.LimitReader(answer.Body, 4<<10)) // it says why
				return errNo
			}
			return nil
		},
	}
	c.Flags().StringVar(&admin, "admin", "", "`address` of the admin listener")
	c.Flags().StringVarP(&file, "config", "c", "", "configuration `file` of the gateway, or that of OMNIA_GATEWAY_CONFIG")
	c.Flags().BoolVar(&ready, "ready", false, "ask whether it is ready for new connections, not only alive")
	return c
}

// reachable returns the address at which to ask a listener of this machine: loopback, if it is
// bound to every address.
func reachable(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}
