package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"keelson.dev/keelson/core/encryption"
	"keelson.dev/keelson/core/registry"
	"keelson.dev/keelson/core/store"
)

// CheckStore checks the store of a data folder on which no server runs. Values are decrypted with Keelson's own keys, and
// decoded: as the kinds that the server has, others as JSON.
func CheckStore(ctx context.Context, dataDir string) (*store.Report, error) {
	dir := filepath.Join(dataDir, "store")
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("--data-dir %s holds no store: %w", dataDir, err)
	}
	path := encryption.File(filepath.Join(dataDir, EncryptionDir))
	keys := &encryption.Reader{}
	data, err := os.ReadFile(path)
	if err == nil {
		keys, err = encryption.NewReader(path, data)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("keys of encryption at rest: %w", err)
	}
	return store.Check(ctx, store.CheckOptions{Dir: dir, Value: func(ctx context.Context, _ string, value []byte) error {
		plain, err := keys.Plain(ctx, value)
		if errors.Is(err, encryption.ErrNoKey) {
			return store.ErrNotRead
		}
		if err != nil {
			return err
		}
		return decodes(plain)
	}})
}

// decodes tells whether a stored object can be decoded.
func decodes(stored []byte) error {
	_, gvk, err := registry.Codecs.UniversalDeserializer().Decode(stored, nil, nil)
	if err == nil || !runtime.IsNotRegisteredError(err) {
		return err
	}
	// A custom resource, or a kind of another version of the server.
	var m metav1.PartialObjectMetadata
	if err := json.Unmarshal(stored, &m); err != nil {
		return fmt.Errorf("%s: %w", gvk, err)
	}
	if m.Name == "" || m.Kind == "" || m.APIVersion == "" {
		return fmt.Errorf("%s: it has no name, kind or apiVersion", gvk)
	}
	return nil
}
