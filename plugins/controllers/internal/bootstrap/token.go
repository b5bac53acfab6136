package bootstrap

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const namePrefix = "bootstrap-token-"

var tokenID = regexp.MustCompile(`\A[a-z0-9]{6}\z`)

// expiry is when a token ends; false if it does not. One whose time cannot be read has
// ended.
func expiry(s *corev1.Secret) (time.Time, bool) {
	text := string(s.Data["expiration"])
	if text == "" {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, true
	}
	return t, true
}

// signing gives the id and the secret of a token that signs at the time.
func signing(s *corev1.Secret, now time.Time) (id, secret string, ok bool) {
	id, secret = string(s.Data["token-id"]), string(s.Data["token-secret"])
	end, ends := expiry(s)
	ok = s.Type == corev1.SecretTypeBootstrapToken && s.DeletionTimestamp == nil && tokenID.MatchString(id) && secret != "" &&
		s.Name == namePrefix+id && string(s.Data["usage-bootstrap-signing"]) == "true" && (!ends || now.Before(end))
	return id, secret, ok
}

// sign is the JSON web signature of content by a token, in its compact form without the
// content (RFC 7515, appendix F).
func sign(content, id, secret string) (string, error) {
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		Key       string `json:"kid"`
	}{"HS256", id})
	if err != nil {
		return "", fmt.Errorf("encode the header of a signature: %w", err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(encode(header) + "." + encode([]byte(content))))
	return encode(header) + ".." + encode(mac.Sum(nil)), nil
}
