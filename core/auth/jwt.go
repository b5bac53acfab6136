package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// raw decodes what RFC 7515 calls BASE64URL: no padding, no stray bits, so that
// one token has one spelling.
var raw = base64.RawURLEncoding.Strict()

var errMalformed = errors.New("token is malformed")

// keyID names a public key: the hash of its DER form.
func keyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return raw.EncodeToString(sum[:]), nil
}

// verifier is a public key that tokens may be signed with.
type verifier struct {
	key crypto.PublicKey // *ecdsa.PublicKey or *rsa.PublicKey
	kid string
	alg string // RS256, ES256, ES384 or ES512: a key has one, so a token cannot choose
}

func newVerifier(key crypto.PublicKey) (verifier, error) {
	v := verifier{key: key}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return v, fmt.Errorf("an RSA key of %d bits is too short for tokens, want %d", k.N.BitLen(), minRSA)
		}
		v.alg = "RS256"
	case *ecdsa.PublicKey:
		alg, ok := curves[k.Curve]
		if !ok {
			return v, fmt.Errorf("no tokens are signed with an ECDSA key on curve %s: want P-256, P-384 or P-521", k.Curve.Params().Name)
		}
		v.alg = alg
	default:
		return v, fmt.Errorf("no tokens are signed with a key of type %T: want ECDSA or RSA", key)
	}
	var err error
	v.kid, err = keyID(key)
	return v, err
}

// minRSA is the least number of bits of an RSA key, RFC 7518 section 3.3.
const minRSA = 2048

var curves = map[elliptic.Curve]string{elliptic.P256(): "ES256", elliptic.P384(): "ES384", elliptic.P521(): "ES512"}

// digest hashes what an algorithm signs.
func digest(alg, signed string) ([]byte, crypto.Hash) {
	switch alg {
	case "ES384":
		sum := sha512.Sum384([]byte(signed))
		return sum[:], crypto.SHA384
	case "ES512":
		sum := sha512.Sum512([]byte(signed))
		return sum[:], crypto.SHA512
	}
	sum := sha256.Sum256([]byte(signed))
	return sum[:], crypto.SHA256
}

// scalar is the length of one half of an ECDSA signature, RFC 7518 section 3.4.
func scalar(key *ecdsa.PublicKey) int { return (key.Curve.Params().BitSize + 7) / 8 }

type header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
}

// sign makes a compact token of claims with the private half of v's key.
func (v *verifier) sign(key crypto.Signer, claims any) (string, error) {
	head, err := json.Marshal(header{Algorithm: v.alg, KeyID: v.kid})
	if err != nil {
		return "", fmt.Errorf("encode token header: %w", err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode token claims: %w", err)
	}
	signed := raw.EncodeToString(head) + "." + raw.EncodeToString(body)
	sum, hash := digest(v.alg, signed)
	var sig []byte
	if private, ok := key.(*ecdsa.PrivateKey); ok {
		r, s, err := ecdsa.Sign(rand.Reader, private, sum)
		if err != nil {
			return "", fmt.Errorf("sign token: %w", err)
		}
		n := scalar(&private.PublicKey)
		sig = make([]byte, 2*n)
		r.FillBytes(sig[:n])
		s.FillBytes(sig[n:])
	} else if sig, err = key.Sign(rand.Reader, sum, hash); err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed + "." + raw.EncodeToString(sig), nil
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
func (v *verifier) verify(signed string, sig []byte) bool {
	sum, hash := digest(v.alg, signed)
	switch key := v.key.(type) {
	case *ecdsa.PublicKey:
		n := scalar(key)
		return len(sig) == 2*n && ecdsa.Verify(key, sum, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]))
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, hash, sum, sig) == nil
	}
	return false
}

// jwk is a public key as RFC 7517 writes it.
type jwk struct {
	Use       string `json:"use"`
	KeyType   string `json:"kty"`
	KeyID     string `json:"kid"`
	Curve     string `json:"crv,omitempty"`
	Algorithm string `json:"alg"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
	N         string `json:"n,omitempty"`
	E         string `json:"e,omitempty"`
}

func (v *verifier) jwk() (jwk, error) {
	j := jwk{Use: "sig", KeyID: v.kid, Algorithm: v.alg}
	switch key := v.key.(type) {
	case *rsa.PublicKey:
		j.KeyType = "RSA"
		j.N, j.E = raw.EncodeToString(key.N.Bytes()), raw.EncodeToString(big.NewInt(int64(key.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := key.Bytes() // 4, x, y
		if err != nil {
			return j, fmt.Errorf("encode public key: %w", err)
		}
		n := scalar(key)
		j.KeyType, j.Curve = "EC", key.Curve.Params().Name
		j.X, j.Y = raw.EncodeToString(point[1:1+n]), raw.EncodeToString(point[1+n:])
	}
	return j, nil
}
