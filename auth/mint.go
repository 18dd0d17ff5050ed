package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"

	"github.com/golang-jwt/jwt/v5"
)

// Signer makes tokens with one private key, for development and tests only. It may be used
// concurrently.
type Signer struct {
	key    crypto.Signer
	method jwt.SigningMethod
	public map[string]string // the members of the public key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2)
	kid    string
}

// NewSigner returns a signer for a private key: RS256 for an RSA key of at least 2048 bits,
// ES256 for a key on P-256, EdDSA for an Ed25519 key.
func NewSigner(key crypto.Signer) (*Signer, error) {
	s := &Signer{key: key}
	switch pub := key.Public().(type) {
	case *rsa.PublicKey:
		if pub.N.BitLen() < minRSA {
			return nil, fmt.Errorf("RSA key of %d bits: at least %d are needed", pub.N.BitLen(), minRSA)
		}
		s.method = jwt.SigningMethodRS256
		s.public = map[string]string{"kty": "RSA", "n": encode(pub.N.Bytes()), "e": encode(big.NewInt(int64(pub.E)).Bytes())}
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() {
			return nil, fmt.Errorf("EC key on %s: P-256 is needed", pub.Curve.Params().Name)
		}
		point, err := pub.Bytes() // 4, x, y (SEC 1 §2.3.3)
		if err != nil {
			return nil, fmt.Errorf("EC key: %w", err)
		}
		s.method = jwt.SigningMethodES256
		s.public = map[string]string{"kty": "EC", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:])}
	case ed25519.PublicKey:
		s.method = jwt.SigningMethodEdDSA
		s.public = map[string]string{"kty": "OKP", "crv": "Ed25519", "x": encode(pub)}
	default:
		return nil, fmt.Errorf("a key of type %T cannot sign tokens", pub)
	}
	text, err := json.Marshal(s.public) // sorted and compact, as RFC 7638 §3 asks
	if err != nil {
		return nil, fmt.Errorf("thumbprint: %w", err)
	}
	sum := sha256.Sum256(text)
	s.kid = encode(sum[:])
	return s, nil
}

// GenerateSigner returns a signer with a new key for RS256, ES256 or EdDSA.
func GenerateSigner(alg string) (*Signer, error) {
	var key crypto.Signer
	var err error
	switch alg {
	case "RS256":
		key, err = rsa.GenerateKey(rand.Reader, minRSA)
	case "ES256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, fmt.Errorf("algorithm %q: RS256, ES256 and EdDSA can be generated", alg)
	}
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return NewSigner(key)
}

// LoadSigner returns a signer for the first private key in PEM text: PKCS #8, or the older forms
// of RSA and EC.
func LoadSigner(text []byte) (*Signer, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("no private key in PEM")
		}
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default: // such as the EC PARAMETERS that openssl puts before the key
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("private key: %w", err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("a key of type %T cannot sign tokens", key)
		}
		return NewSigner(signer)
	}
}

// PEM returns the private key as PKCS #8, for LoadSigner. It is a secret.
func (s *Signer) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Algorithm returns the name of the signer's algorithm.
func (s *Signer) Algorithm() string { return s.method.Alg() }

// KeyID returns the kid of the key: its thumbprint (RFC 7638), so that a key loaded again keeps
// its name.
func (s *Signer) KeyID() string { return s.kid }

// Sign returns a token with exactly these claims.
func (s *Signer) Sign(claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	header, err := json.Marshal(map[string]string{"alg": s.Algorithm(), "kid": s.kid, "typ": "JWT"})
	if err != nil {
		return "", fmt.Errorf("header: %w", err)
	}
	signed := encode(header) + "." + encode(payload)
	signature, err := s.method.Sign(signed, s.key)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return signed + "." + encode(signature), nil
}

// JWKS returns the JWK set with the public key (RFC 7517 §5), for servers that verify.
func (s *Signer) JWKS() []byte {
	key := map[string]string{"use": "sig", "alg": s.Algorithm(), "kid": s.kid}
	for name, value := range s.public {
		key[name] = value
	}
	text, err := json.Marshal(map[string]any{"keys": []any{key}})
	if err != nil {
		panic(err) // strings only: it cannot fail
	}
	return text
}

// Inspect decodes a token without verifying it. The error tells why it does not have the form of
// a signed JWT.
func Inspect(text string) (header, claims map[string]any, err error) {
	t, err := decodeJWS(text)
	if err != nil {
		return nil, nil, err
	}
	if header, err = decodeObject(string(t.header)); err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	if claims, err = decodeObject(string(t.payload)); err != nil {
		return nil, nil, fmt.Errorf("payload: %w", err)
	}
	return header, claims, nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
