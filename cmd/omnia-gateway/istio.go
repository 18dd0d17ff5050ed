package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/altairalabs/omnia-gateway/auth"
	"github.com/altairalabs/omnia-gateway/config"
	"github.com/altairalabs/omnia-gateway/config/istio"
)

func newIstio() *cobra.Command {
	c := &cobra.Command{
		Use:   "istio",
		Short: "Write a configuration as Istio's resources, or read them",
		Long: "Istio export writes the block authentication as a RequestAuthentication, two\n" +
			"AuthorizationPolicies and the EnvoyFilter that strips identity headers; istio import reads them.\n" +
			"docs/istio.md lists what is different between the two.",
		Args: noCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newIstioExport(), newIstioImport())
	return c
}

func newIstioExport() *cobra.Command {
	var from config.Sources
	var names, label string
	var o istio.Options
	var strict, online bool
	c := &cobra.Command{
		Use:   "export",
		Short: "Print the configuration as Istio's resources",
		Long: "Export prints what is in force, defaults included, in the form in which the Omnia chart renders\n" +
			"it. What Istio cannot do is reported on standard error, one line each, and kept in an annotation\n" +
			"for istio import. With --strict that is an error, and nothing is printed.",
		Example: "  omnia-gateway istio export --config gateway.yaml | kubectl apply -f -",
		Args:    takes(0),
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if o.Names, err = istio.NamesOf(names); err != nil {
				return usageError{fmt.Errorf("--names: %w", err)}
			}
			if o.Selector, err = istio.ParseLabels(label); err != nil {
				return usageError{fmt.Errorf("--selector: %w", err)}
			}
			cfg, err := loadPolicy(from)
			if err != nil {
				return err
			}
			text, remarks, err := istio.Export(cfg, o)
			if err != nil {
				return err
			}
			lost := false
			for _, r := range remarks {
				fmt.Fprintln(c.ErrOrStderr(), r)
				lost = lost || r.Lost
			}
			if strict && lost {
				return errors.New("the configuration asks for more than Istio can do (--strict)")
			}
			if online {
				if err := compareDiscovery(c, cfg); err != nil {
					return err
				}
			}
			_, err = io.WriteString(c.OutOrStdout(), text)
			return err
		},
	}
	configFlags(c, &from)
	f := c.Flags()
	f.StringVar(&names, "names", "seed", "`scheme` of the names: seed (omnia-jwt-auth, …) or chart (omnia-agent-jwt, …)")
	f.StringVar(&o.Namespace, "namespace", "omnia-system", "`namespace` of the resources")
	f.StringVar(&label, "selector", istio.AgentLabels().String(), "`labels` of the agents' pods, name=value,…")
	f.BoolVar(&strict, "strict", false, "print nothing if something cannot be carried")
	f.BoolVar(&online, "online", false, "also ask the issuers' discovery documents for the address of their keys")
	return c
}

// loadPolicy loads a configuration that may have no routes, because Istio's resources do not
// contain them.
func loadPolicy(from config.Sources) (*config.Config, error) {
	c, err := load(from)
	problems, ok := errors.AsType[config.Problems](err)
	if !ok || len(problems) != 1 || problems[0].Key != "routes" || os.Getenv("OMNIA_GATEWAY_ROUTES") != "" {
		return c, err
	}
	from.Environ = append(os.Environ(), "OMNIA_GATEWAY_ROUTES=/=http://agent.invalid")
	if c, err = config.Load(from); err != nil {
		return nil, err
	}
	c.Routes = nil
	return c, nil
}

// compareDiscovery asks the issuers without jwksUri where their keys are, and notes each issuer
// for which Istio would ask another address.
func compareDiscovery(c *cobra.Command, cfg *config.Config) error {
	keys := auth.NewKeys(auth.Options{})
	v, err := auth.New(cfg.Authentication, cfg.Limits.MaxTokenBytes, keys, nil)
	if err != nil {
		return err
	}
	if err := keys.Refresh(c.Context()); err != nil {
		return err
	}
	states := v.Issuers()
	if len(states) == 0 { // client keys alone, which Export refuses
		return nil
	}
	for n, j := range cfg.Authentication.Issuers() {
		if istiod := istio.ChartAddress(j.Issuer); j.JWKSURI == "" && states[n].KeysURL != istiod {
			fmt.Fprintf(c.ErrOrStderr(), "note: issuer %s publishes its keys at %s: set jwksUri, since Istio gets %s\n", j.Issuer,
				states[n].KeysURL, istiod)
		}
	}
	return nil
}

func newIstioImport() *cobra.Command {
	var strict bool
	c := &cobra.Command{
		Use:   "import FILE…",
		Short: "Print the configuration that does what Istio's resources do",
		Long: "Import reads Istio's resources, as kubectl get -o yaml prints them, in any order, from one file\n" +
			"or several; - is standard input. It prints a configuration without routes, unless istio export\n" +
			"has left them in an annotation. What the gateway cannot do is an error with its place.",
		Example: "  kubectl get -n omnia-system requestauthentication,authorizationpolicy,envoyfilter -o yaml | omnia-gateway istio " +
			"import - > gateway.yaml",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("name a file, or - for standard input")}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			var files []istio.File
			for _, name := range args {
				text, err := readInput(c.InOrStdin(), name)
				if err != nil {
					return err
				}
				files = append(files, istio.File{Name: name, Text: text})
			}
			cfg, notes, err := istio.Import(files)
			if err != nil {
				return err
			}
			for _, note := range notes {
				fmt.Fprintln(c.ErrOrStderr(), "note:", note)
			}
			usual := config.Default()
			_, err = io.WriteString(c.OutOrStdout(), config.Changes(cfg, &usual).String())
			return err
		},
	}
	c.Flags().BoolVar(&strict, "strict", false, "accepted as with export; import leaves nothing out, so that it changes nothing")
	return c
}

// maxInput bounds a file of resources.
const maxInput = 4 << 20

// readInput reads a file, or standard input for -.
func readInput(stdin io.Reader, name string) (string, error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	if len(text) > maxInput {
		return "", fmt.Errorf("read %s: more than %d bytes", name, maxInput)
	}
	return string(text), nil
}
