package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/altairalabs/omnia-gateway/config"
)

// operator asks the admin listener of a running gateway.
type operator struct {
	admin, tokenFile, config string // flags
}

// flags are those by which a command finds the admin listener, and shows that it may change state.
func (o *operator) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.admin, "admin", "", "`address` of the admin listener; else the one of the configuration that serve would read")
	c.Flags().StringVar(&o.tokenFile, "admin-token-file", "",
		"`file` with an operator's token, as in admin.tokenFile: its first one is used")
}

// running is flags for a command that has no configuration of its own.
func (o *operator) running(c *cobra.Command) {
	c.Flags().StringVarP(&o.config, "config", "c", "", "configuration `file` of the running gateway, or that of OMNIA_GATEWAY_CONFIG")
	o.flags(c)
}

// ask sends a request and decodes its answer into out, unless that is nil. The error tells what the
// gateway has answered, if it refused; a 422 is decoded as well.
func (o *operator) ask(c *cobra.Command, method, path string, body, out any) error {
	_, err := o.askAll(c, method, path, body, out)
	return err
}

// askAll is ask, and returns the headers of the answer too.
func (o *operator) askAll(c *cobra.Command, method, path string, body, out any) (http.Header, error) {
	addr, err := o.address(c)
	if err != nil {
		return nil, err
	}
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(c.Context(), method, "http://"+addr+path, content)
	if err != nil {
		return nil, err
	}
	if o.tokenFile != "" {
		token, err := firstToken(o.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("--admin-token-file: %w", err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, fmt.Errorf("no answer from an admin listener on %s: %w", addr, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("admin listener on %s: %w", addr, err)
	}
	if answer.StatusCode/100 != 2 && answer.StatusCode != http.StatusUnprocessableEntity {
		var problem struct{ Detail string }
		if json.Unmarshal(text, &problem); problem.Detail == "" {
			return nil, fmt.Errorf("admin listener on %s: %s", addr, answer.Status)
		}
		return nil, fmt.Errorf("admin listener on %s: %s: %s", addr, answer.Status, problem.Detail)
	}
	if out != nil && len(text) > 0 {
		err = json.Unmarshal(text, out)
	}
	return answer.Header, err
}

// address returns where the admin listener is.
func (o *operator) address(c *cobra.Command) (string, error) {
	listen := o.admin
	if listen == "" {
		var err error
		if listen, err = config.AdminListen(config.Sources{File: o.config, Environ: os.Environ()}); err != nil {
			fmt.Fprintf(c.ErrOrStderr(), "%v\nasking %s\n", err, listen)
		}
	}
	addr, err := reachable(listen)
	if err != nil {
		return "", usageError{fmt.Errorf("admin listener: %w", err)}
	}
	return addr, nil
}

// firstToken returns the token of the first line of a token file.
func firstToken(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 0 && !strings.HasPrefix(words[0], "#") {
			return words[len(words)-1], nil
		}
	}
	return "", errors.New("no token in it")
}
