package main

import (
	"bytes"
	"strings"
	"testing"
)

// A shell gives an empty text where a variable is not set.
func TestEmptyFlagIsNotTakenAsOneThatIsMissing(t *testing.T) {
	for _, test := range []struct {
		flag string
		line []string
	}{
		{"config", []string{"--config", ""}},
		{"config", []string{"serve", "--config="}},
		{"config", []string{"health", "-c", ""}},
		{"values", []string{"check", "--values", "values.yaml", "--values", ""}},
		{"path", []string{"explain", "--path", "", "--token", ""}},
		{"subject", []string{"revoke", "--issuer", "https://a", "--subject", "", "--issued-before", "now"}},
		{"subject", []string{"sessions", "end", "--route", "/a", "--subject", ""}},
		{"admin", []string{"drain", "--admin", ""}},
		{"issuer", []string{"token", "mint", "--key", "k.pem", "--subject", "s", "--issuer", ""}},
	} {
		t.Run(strings.Join(test.line, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(test.line, strings.NewReader(""), &stdout, &stderr)
			want := "--" + test.flag + ": empty; give a value, or leave the flag out\n"
			if code != exitUsage || stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), want) {
				t.Errorf("exit %d, stdout %q, stderr:\n%s\nwant exit %d and stderr:\n%s", code, &stdout, &stderr, exitUsage, want)
			}
		})
	}
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"chek", `unknown command "chek"; did you mean "check"?` + "\nsee omnia-gateway --help\n"},
		{"nonsense", "unknown command \"nonsense\"\nsee omnia-gateway --help\n"},
		{"token mnt", `unknown command "mnt"; did you mean "mint"?` + "\nsee omnia-gateway token --help\n"},
		{"dev agnet", `unknown command "agnet"; did you mean "agent"?` + "\nsee omnia-gateway dev --help\n"},
		{"--confg x", "unknown flag: --confg\nsee omnia-gateway --help\n"},
		{"check --onlin", "unknown flag: --onlin\nsee omnia-gateway check --help\n"},
		{"check --config", "flag needs an argument: --config\nsee omnia-gateway check --help\n"},
		{"explain", "required flag(s) \"path\" not set\nsee omnia-gateway explain --help\n"},
		{"explain --path /a --header nonsense", "--header \"nonsense\": want \"Name: value\"\nsee omnia-gateway explain --help\n"},
		{"explain --path ws://localhost:8080/a/ws?x=1", "--path: give only the path, as in --path /a/ws --host localhost:8080\n" +
			"see omnia-gateway explain --help\n"},
		{"token mint --issuer x", "required flag(s) \"key\", \"subject\" not set\nsee omnia-gateway token mint --help\n"},
		{"token inspect", "an argument is missing: omnia-gateway token inspect TOKEN|- [flags]\nsee omnia-gateway token inspect --help\n"},
		{"token inspect a b", "unexpected argument \"b\"\nsee omnia-gateway token inspect --help\n"},
		{"serve gateway.yaml", "unexpected argument \"gateway.yaml\"\nsee omnia-gateway serve --help\n"},
		{"health 9090", "unexpected argument \"9090\"\nsee omnia-gateway health --help\n"},
		{"health --admin 9090", "admin listener: address 9090: missing port in address\nsee omnia-gateway health --help\n"},
		{"version now", "unexpected argument \"now\"\nsee omnia-gateway version --help\n"},
		{"dev --lifetime soon", "invalid argument \"soon\" for \"--lifetime\" flag: time: invalid duration \"soon\"\nsee omnia-gateway " +
			"dev --help\n"},
	} {
		t.Run(test.line, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(strings.Fields(test.line), strings.NewReader(""), &stdout, &stderr)
			if code != exitUsage || stdout.Len() > 0 || stderr.String() != test.want {
				t.Errorf("exit %d, stdout %q, stderr:\n%s\nwant exit %d and stderr:\n%s", code, &stdout, &stderr, exitUsage, test.want)
			}
		})
	}
}
