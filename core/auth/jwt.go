package auth

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// scalar is the length of one half of a P-256 signature.
const scalar = 32

// raw decodes what RFC 7515 calls BASE64URL: no padding, no stray bits, so that
// one token has one spelling.
var raw = base64.RawURLEncoding.Strict()

var errMalformed = errors.New("token is malformed")

// keyID names a public key: the hash of its DER form.
func keyID(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return raw.EncodeToString(sum[:]), nil
}

type header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
}

// sign makes a compact ES256 token of claims.
func sign(key *ecdsa.PrivateKey, kid string, claims any) (string, error) {
	head, err := json.Marshal(header{Algorithm: "ES256", KeyID: kid})
	if err != nil {
		return "", fmt.Errorf("encode token header: %w", err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode token claims: %w", err)
	}
	signed := raw.EncodeToString(head) + "." + raw.EncodeToString(body)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	var sig [2 * scalar]byte
	r.FillBytes(sig[:scalar])
	s.FillBytes(sig[scalar:])
	return signed + "." + raw.EncodeToString(sig[:]), nil
}

// split takes a compact token apart and decodes its claims, unverified.
func split(token string, claims any) (head header, signed string, sig []byte, err error) {
	h, rest, ok := strings.Cut(token, ".")
	b, s, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || strings.Contains(s, ".") {
		return head, "", nil, errMalformed
	}
	headBytes, err1 := raw.DecodeString(h)
	bodyBytes, err2 := raw.DecodeString(b)
	sig, err3 := raw.DecodeString(s)
	if errors.Join(err1, err2, err3) != nil {
		return head, "", nil, errMalformed
	}
	if json.Unmarshal(headBytes, &head) != nil || json.Unmarshal(bodyBytes, claims) != nil {
		return head, "", nil, errMalformed
	}
	return head, token[:len(h)+1+len(b)], sig, nil
}

// verify checks the signature that split returned.
func verify(key *ecdsa.PublicKey, signed string, sig []byte) bool {
	if len(sig) != 2*scalar {
		return false
	}
	sum := sha256.Sum256([]byte(signed))
	r, s := new(big.Int).SetBytes(sig[:scalar]), new(big.Int).SetBytes(sig[scalar:])
	return ecdsa.Verify(key, sum[:], r, s)
}

// jwk is a public key as RFC 7517 writes it.
type jwk struct {
	Use       string `json:"use"`
	KeyType   string `json:"kty"`
	KeyID     string `json:"kid"`
	Curve     string `json:"crv"`
	Algorithm string `json:"alg"`
	X         string `json:"x"`
	Y         string `json:"y"`
}

func newJWK(key *ecdsa.PublicKey, kid string) (jwk, error) {
	point, err := key.Bytes() // 4, x, y
	if err != nil {
		return jwk{}, fmt.Errorf("encode public key: %w", err)
	}
	return jwk{
		Use: "sig", KeyType: "EC", KeyID: kid, Curve: "P-256", Algorithm: "ES256",
		X: raw.EncodeToString(point[1 : 1+scalar]), Y: raw.EncodeToString(point[1+scalar:]),
	}, nil
}
