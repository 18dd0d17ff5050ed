package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/MicahParks/jwkset"

	"github.com/altairalabs/omnia-gateway/outcome"
)

// The RSA keys that are used. The cost of verifying grows with the square of the length and with
// the exponent, so a key with more of either is skipped like a broken one.
const (
	minRSA      = 2048 // bits (RFC 7518 §3.3)
	maxRSA      = 8192
	maxExponent = 65537 // what nearly every key has
)

// jwk is one public key of a set.
type jwk struct {
	kid, alg string // "" matches every token's
	public   crypto.PublicKey
}

// errWeak is about an RSA key that is too short.
var errWeak = fmt.Errorf("it has fewer than %d bits", minRSA)

// parseKey reads one key. With an error it returns the kid, if the key has one. Only kty and its
// parameters are given to the library: what stands beside them (x5c, x5u, private parts) can
// then neither break a good key nor be followed.
func parseKey(raw []byte) (k jwk, err error) {
	defer func() { // broken keys have made big-number code panic before
		if r := recover(); r != nil {
			err = errors.New("broken")
		}
	}()
	object, err := decodeObject(string(raw))
	if err != nil {
		return k, err
	}
	member := func(name string) string {
		s, ok := object[name].(string)
		if !ok && object[name] != nil && err == nil {
			err = fmt.Errorf("%s is not a string", name)
		}
		return s
	}
	k.kid, k.alg = member("kid"), canonical(member("alg"))
	if use := member("use"); object["use"] != nil && use != "sig" {
		return k, fmt.Errorf("use is %s", outcome.Brief(use))
	}
	if ops := object["key_ops"]; ops != nil {
		if list, _ := ops.([]any); !slices.Contains(list, any("verify")) {
			return k, errors.New("key_ops lack verify")
		}
	}
	m := jwkset.JWKMarshal{
		KTY: jwkset.KTY(member("kty")), CRV: jwkset.CRV(member("crv")),
		X: member("x"), Y: member("y"), N: member("n"), E: member("e"),
	}
	if err != nil {
		return k, err
	}
	var needed []string
	switch m.KTY {
	case jwkset.KtyRSA:
		needed = []string{"n", "e"}
	case jwkset.KtyEC:
		needed = []string{"crv", "x", "y"}
	case jwkset.KtyOKP:
		needed = []string{"crv", "x"}
	case "":
		return k, errors.New("kty is missing")
	default: // oct is a secret, and not when it is published
		return k, fmt.Errorf("kty %s cannot verify", outcome.Brief(string(m.KTY)))
	}
	for _, name := range needed {
		if member(name) == "" {
			return k, fmt.Errorf("%s is missing, of a key with kty %s", name, m.KTY)
		}
	}
	if len(m.E) > 8 { // the library would cut it to 64 bits
		return k, errors.New("RSA exponent out of range")
	}
	parsed, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return k, errors.New("broken, or on an unknown curve")
	}
	k.public = parsed.Key()
	switch pub := k.public.(type) {
	case *rsa.PublicKey:
		if pub.E&1 == 0 || pub.E < 3 || pub.E > maxExponent {
			return k, fmt.Errorf("RSA exponent even or above %d", maxExponent)
		}
		if pub.N.BitLen() > maxRSA {
			return k, fmt.Errorf("RSA modulus of more than %d bits", maxRSA)
		}
		if pub.N.BitLen() < minRSA {
			return k, errWeak
		}
	case ed25519.PublicKey:
		if hasSmallOrder(pub) {
			return k, errors.New("x is a point of small order, with which anyone can sign")
		}
	case *ecdsa.PublicKey:
	default: // X25519 signs nothing
		return k, fmt.Errorf("crv %s cannot verify", outcome.Brief(string(m.CRV)))
	}
	return k, nil
}

// smallOrder are the Ed25519 keys of order 1, 2, 4 and 8, also with y not reduced, without the sign
// of x. No secret is needed to sign with them, and RFC 8032 has no word against them: an issuer
// publishes one whose key was never written into its memory.
var smallOrder = [...]string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
}

// hasSmallOrder reports whether a key is one of them.
func hasSmallOrder(key ed25519.PublicKey) bool {
	point := slices.Clone(key)
	point[len(point)-1] &= 0x7f // without the sign
	return slices.Contains(smallOrder[:], hex.EncodeToString(point))
}

// canonical returns the name by which an algorithm is known here: Ed25519 (RFC 9864) is EdDSA with
// the one curve that we have.
func canonical(alg string) string {
	if alg == "Ed25519" {
		return "EdDSA"
	}
	return alg
}

// fits reports whether the key may verify signatures of the algorithm: its own alg, type and curve
// must agree with it (RFC 7518 §3.1, RFC 8037 §3.1).
func (k *jwk) fits(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch pub := k.public.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			return alg == "ES256"
		case elliptic.P384():
			return alg == "ES384"
		case elliptic.P521():
			return alg == "ES512"
		}
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}
