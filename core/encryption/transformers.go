package encryption

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
)

// settle is how long a changed file has to stay unchanged before it is read:
// editors write in several steps.
const settle = 50 * time.Millisecond

// Transformers encrypt and decrypt what the store keeps, by a file that they
// follow. They are safe for concurrent use.
type Transformers struct {
	path     string
	serverID string
	log      *slog.Logger
	dynamic  *encryptionconfig.DynamicTransformers
	hash     string // of the file in force; Run's alone after Open
	lifetime context.Context
	changed  chan struct{} // holds one token: another file is in force
}

var _ value.ResourceTransformers = (*Transformers)(nil)

// Open reads the file. KMS plugins that it names are connected to until ctx ends.
func Open(ctx context.Context, path string, log *slog.Logger) (*Transformers, error) {
	t := &Transformers{path: path, serverID: "keelson", log: log, lifetime: ctx, changed: make(chan struct{}, 1)}
	loaded, stop, err := t.load()
	if err != nil {
		return nil, fmt.Errorf("encryption configuration %s: %w", path, err)
	}
	t.hash = loaded.EncryptionFileContentHash
	t.dynamic = encryptionconfig.NewDynamicTransformers(loaded.Transformers, loaded.HealthChecks[0], stop, loaded.KMSCloseGracePeriod)
	return t, nil
}

func (t *Transformers) load() (*encryptionconfig.EncryptionConfiguration, context.CancelFunc, error) {
	ctx, stop := context.WithCancel(t.lifetime)
	loaded, err := encryptionconfig.LoadEncryptionConfig(ctx, t.path, true, t.serverID)
	if err != nil {
		stop()
		return nil, nil, err
	}
	return loaded, stop, nil
}

// TransformerForResource implements value.ResourceTransformers.
func (t *Transformers) TransformerForResource(r schema.GroupResource) value.Transformer {
	return t.dynamic.TransformerForResource(r)
}

// Changed gets a value after another configuration has come in force.
func (t *Transformers) Changed() <-chan struct{} { return t.changed }

// Name implements healthz.HealthChecker.
func (t *Transformers) Name() string { return t.dynamic.Name() }

// Check implements healthz.HealthChecker: it asks the KMS plugins, if there are any.
func (t *Transformers) Check(r *http.Request) error { return t.dynamic.Check(r) }

// Run follows the file until ctx ends.
func (t *Transformers) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", t.path, err)
	}
	defer watcher.Close()
	// The folder: a file that is replaced is another one afterwards, and mounted
	// configuration changes by its folder's link.
	if err := watcher.Add(filepath.Dir(t.path)); err != nil {
		return fmt.Errorf("watch %s: %w", t.path, err)
	}
	t.reload(ctx) // it may have changed since Open
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
			timer.Reset(settle)
		case err := <-watcher.Errors:
			t.log.Warn("Changes of the encryption configuration may have been missed", "file", t.path, "err", err)
			timer.Reset(settle)
		case <-timer.C:
			t.reload(ctx)
		}
	}
}

// reload puts a changed file in force.
func (t *Transformers) reload(ctx context.Context) {
	hash, err := encryptionconfig.GetEncryptionConfigHash(t.path)
	if err == nil && hash == t.hash {
		return
	}
	var loaded *encryptionconfig.EncryptionConfiguration
	var stop context.CancelFunc
	if err == nil {
		loaded, stop, err = t.load()
	}
	if err == nil {
		if err = healthy(ctx, loaded); err != nil {
			stop()
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			t.log.Error("Encryption configuration not taken over, the one before stays in force", "file", t.path, "err", err)
		}
		return
	}
	t.hash = loaded.EncryptionFileContentHash
	t.dynamic.Set(loaded.Transformers, stop, loaded.HealthChecks[0], loaded.KMSCloseGracePeriod)
	t.log.Info("Encryption configuration taken over", "file", t.path)
	select {
	case t.changed <- struct{}{}:
	default: // told already, not yet heard
	}
}

// healthy waits a while for the KMS plugins of a new configuration.
func healthy(ctx context.Context, c *encryptionconfig.EncryptionConfiguration) error {
	ctx, cancel := context.WithTimeout(ctx, max(c.KMSCloseGracePeriod, 10*time.Second))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "/healthz", nil)
	if err != nil {
		return err
	}
	for {
		err := c.HealthChecks[0].Check(req)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
