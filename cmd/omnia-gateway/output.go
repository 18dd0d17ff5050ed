package main

import (
	"encoding/json"
	"errors"
	"io"

	"github.com/spf13/cobra"
)

// output is the form of a command's output, which the flag -o chooses.
type output string

// The forms.
const (
	text   output = "text" // for a person
	asJSON output = "json" // for a program
)

// flag adds the flag, whose default is what o is.
func (o *output) flag(c *cobra.Command) {
	c.Flags().VarP(o, "output", "o", "`form` of the output: text or json")
}

// Set implements pflag.Value.
func (o *output) Set(s string) error {
	if *o = output(s); *o != text && *o != asJSON {
		return errors.New("want text or json")
	}
	return nil
}

// String implements pflag.Value.
func (o *output) String() string { return string(*o) }

// Type implements pflag.Value.
func (o *output) Type() string { return "form" }

// printJSON writes a value for a program.
func printJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(v)
}
