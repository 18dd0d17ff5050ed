// Package headers reads header fields that are lists.
package headers

import "strings"

// List returns the elements of comma-separated header lines, which are one list (RFC 9110 §5.3).
// Empty elements do not count (§5.6.1), and only spaces and tabs around one are no part of it
// (§5.6.3).
func List(lines []string) (out []string) {
	for _, line := range lines {
		for s := range strings.SplitSeq(line, ",") {
			if s = strings.Trim(s, " \t"); s != "" {
				out = append(out, s)
			}
		}
	}
	return out
}
