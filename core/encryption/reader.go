package encryption

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/secretbox"
)

const (
	// encryptedPrefix begins every value that an API server has encrypted, with whichever provider.
	encryptedPrefix = "k8s:enc:"
	// secretboxPrefix begins those of secretbox; the name of the key and a colon follow.
	secretboxPrefix = encryptedPrefix + "secretbox:v1:"
)

// ErrNoKey says that a value was encrypted with a key that is not at hand.
var ErrNoKey = errors.New("the key is not at hand")

// Encrypted tells whether a stored value is encrypted.
func Encrypted(stored []byte) bool { return bytes.HasPrefix(stored, []byte(encryptedPrefix)) }

// Reader decrypts stored values with the keys of a file of Keelson's own. The zero
// value has none. It is safe for concurrent use.
type Reader struct {
	keys map[string]value.Transformer // by name
}

// NewReader takes the file's content; path is for errors.
func NewReader(path string, data []byte) (*Reader, error) {
	c, err := parse(path, data)
	if err != nil {
		return nil, err
	}
	r := &Reader{keys: map[string]value.Transformer{}}
	for _, k := range c.keys {
		raw, err := base64.StdEncoding.DecodeString(k.Secret)
		if err != nil {
			return nil, err // parse has looked at it
		}
		r.keys[k.Name] = secretbox.NewSecretboxTransformer([keySize]byte(raw))
	}
	return r, nil
}

// Plain gives what a stored value says: decrypted, or itself if it is not encrypted.
// ErrNoKey if another key, or a provider other than Keelson's, wrote it.
func (r *Reader) Plain(ctx context.Context, stored []byte) ([]byte, error) {
	if !Encrypted(stored) {
		return stored, nil
	}
	rest, ours := bytes.CutPrefix(stored, []byte(secretboxPrefix))
	name, sealed, found := bytes.Cut(rest, []byte{':'})
	if !ours || !found || r.keys[string(name)] == nil {
		return nil, fmt.Errorf("value is encrypted: %w", ErrNoKey)
	}
	plain, _, err := r.keys[string(name)].TransformFromStorage(ctx, sealed, value.DefaultContext(nil))
	if err != nil {
		return nil, fmt.Errorf("decrypt with key %s: %w", name, err)
	}
	return plain, nil
}
