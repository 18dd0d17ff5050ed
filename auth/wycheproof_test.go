package auth

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// judgeJWS is Verify up to the signature, for a payload of any kind: most vectors sign the word
// foo.
func judgeJWS(keys, text string) outcome.Reason {
	tok, err := decodeJWS(text)
	if err == nil {
		err = tok.readHeader()
	}
	if err == nil {
		err = scanUnique(string(tok.header), nil)
	}
	if err != nil {
		return outcome.Malformed
	}
	if methods[tok.alg] == nil {
		return outcome.AlgNotAllowed
	}
	set, err := parseKeys([]byte(keys))
	if err != nil {
		return outcome.JWKSUnavailable
	}
	fit, refusal := set.find(tok.alg, tok.kid)
	if refusal != nil {
		return refusal.Reason
	}
	if !signedByOne(tok, fit) {
		return outcome.BadSignature
	}
	return ""
}

// TestWycheproof runs the vectors for JSON Web Signatures of Project Wycheproof
// (github.com/C2SP/wycheproof, testdata/wycheproof/COMMIT). Where our answer is not the expected
// one, the table says why.
func TestWycheproof(t *testing.T) {
	deviations := map[string]string{ // file and tcId
		"signature 259": "empty payload: no JWT", "signature 264": "empty payload: no JWT", "signature 268": "empty payload: no JWT",
		"signature 272": "empty payload: no JWT", "signature 320": "empty payload: no JWT", "signature 325": "empty payload: no JWT",
		"signature 346": "the key says PS256, the token PS384: the vector is wrong",
		"signature 350": "the key says PS256, the token PS384: the vector is wrong",
		"signature 347": "the key says ES521, which is no algorithm: the vector is wrong",
		"signature 351": "the key says ES521, which is no algorithm: the vector is wrong",
		"key 7":         "an RSA modulus of the ROCA kind: its strength is the issuer's to see to",
		"crypto 46":     "an RSA modulus of the ROCA kind: its strength is the issuer's to see to",
	}
	ran := 0
	for _, name := range []string{"signature", "key", "crypto"} {
		text, err := os.ReadFile(filepath.Join("testdata", "wycheproof", "json_web_"+name+"_test.json"))
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			TestGroups []struct {
				Type            string
				Public, Private json.RawMessage
				Tests           []struct {
					TcID            int
					Comment, Result string
					Jws             json.RawMessage
					Jwe             json.RawMessage
				}
			}
		}
		if err := json.Unmarshal(text, &file); err != nil {
			t.Fatal(err)
		}
		for _, g := range file.TestGroups {
			keys := g.Public
			if keys == nil {
				keys = g.Private
			}
			var kind struct{ Kty string }
			if json.Unmarshal(keys, &kind); kind.Kty != "" {
				keys = []byte(`{"keys":[` + string(keys) + `]}`)
			}
			for _, v := range g.Tests {
				ran++
				var token string
				if json.Unmarshal(v.Jws, &token); v.Jws == nil {
					json.Unmarshal(v.Jwe, &token)
				}
				alg := ""
				if tok, err := decodeJWS(token); err == nil && tok.readHeader() == nil {
					alg = tok.alg
				}
				// Only signatures with a private key can be accepted: no HMAC, no encryption.
				want := v.Result == "valid" && methods[alg] != nil
				if why, listed := deviations[fmt.Sprint(name, " ", v.TcID)]; listed {
					t.Logf("%s tc%d: %s", name, v.TcID, why)
					want = v.Result != "valid"
					delete(deviations, fmt.Sprint(name, " ", v.TcID))
				}
				if got := judgeJWS(string(keys), token); (got == "") != want {
					t.Errorf("%s tc%d %s (%s): got %q", name, v.TcID, v.Comment, v.Result, got)
				}
			}
		}
	}
	if ran != 401+26+83 {
		t.Errorf("%d vectors were run", ran)
	}
	for left := range deviations {
		t.Errorf("%s is listed but was not met", left)
	}
}
