package apiserver

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"

	"keelson.dev/keelson/core/encryption"
)

// EncryptionOptions say what the store keeps encrypted.
type EncryptionOptions struct {
	// Secrets are encrypted with a key that Keelson makes and keeps. Default true.
	Secrets bool
	// File is an EncryptionConfiguration of the operator's own, instead. Default none.
	File string
}

func (o *EncryptionOptions) addFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&o.Secrets, "encrypt-secrets", o.Secrets,
		"Write Secrets encrypted to the store, with a key that Keelson makes and keeps in the data folder; see keelson encryption")
	fs.StringVar(&o.File, "encryption-provider-config", "",
		"EncryptionConfiguration (apiserver.config.k8s.io/v1) to use instead of Keelson's own key; changes take effect at once")
	markPaths(fs, "encryption-provider-config")
}

// validate implements optionsPart; the file is read when the server starts.
func (o *EncryptionOptions) validate() []error { return nil }

// openEncryption reads what the store is to be encrypted with, nil if nothing.
// KMS plugins are connected to until ctx ends.
func openEncryption(ctx context.Context, c *Config) (*encryption.Transformers, error) {
	if file := c.Options.Encryption.File; file != "" {
		return encryption.Open(ctx, file, c.Log)
	}
	if c.EncryptionDir == "" {
		return nil, nil
	}
	file := encryption.File(c.EncryptionDir)
	if err := encryption.Ensure(file, c.Options.Encryption.Secrets); err != nil {
		return nil, fmt.Errorf("encryption of secrets: %w", err)
	}
	if _, err := encryption.Read(file); err != nil { // never encrypted
		return nil, nil //nolint:nilerr // Ensure has read it if it is there
	}
	return encryption.Open(ctx, file, c.Log)
}

// runEncryption follows the configuration. Where it is Keelson's own, Secrets
// are written anew when it has changed: at once, or at the next start if the
// server ended meanwhile.
func (s *Server) runEncryption(ctx context.Context) error {
	t := s.storage.transformers
	if t == nil {
		<-ctx.Done()
		return nil
	}
	done := make(chan struct{})
	go func() { // ends with ctx
		defer close(done)
		if err := t.Run(ctx); err != nil {
			s.config.Log.Error("Changes of the encryption configuration take effect at the next start only", "err", err)
		}
	}()
	if s.config.Options.Encryption.File == "" {
		s.keepSecretsWritten(ctx, t.Changed())
	}
	<-done
	return nil
}

// keepSecretsWritten rewrites at the start and after each change, until ctx ends.
func (s *Server) keepSecretsWritten(ctx context.Context, changed <-chan struct{}) {
	select {
	case <-ctx.Done():
		return
	case <-s.ready:
	}
	for {
		s.rewriteSecrets(ctx)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// rewriteSecrets writes all Secrets as the configuration in force wants them,
// unless they are so already, and notes that.
func (s *Server) rewriteSecrets(ctx context.Context) {
	dir := s.config.EncryptionDir
	state, err := encryption.Read(encryption.File(dir))
	if err != nil {
		s.config.Log.Error("Secrets not written anew", "err", err)
		return
	}
	progress, err := encryption.ReadProgress(dir)
	if err != nil {
		s.config.Log.Warn("Secrets are written anew", "err", err)
	} else if progress.Done(state) {
		return
	}
	n, err := s.touchSecrets(ctx)
	if err == nil {
		err = encryption.WriteProgress(dir, encryption.Progress{Key: state.Keys[0], Plain: !state.Encrypts, Secrets: n, At: time.Now().UTC()})
	}
	if err != nil {
		if ctx.Err() == nil {
			s.config.Log.Error("Secrets not written anew; they are at the next start", "err", err)
		}
		return
	}
	s.config.Log.Info("Secrets are encrypted as configured", "key", state.Keys[0], "encrypted", state.Encrypts, "secrets", n)
}

// touchSecrets updates every Secret with what it is: the store writes it if it
// was not encrypted with the first key, and leaves it otherwise.
func (s *Server) touchSecrets(ctx context.Context) (int, error) {
	n := 0
	list := pager.New(func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return s.client.CoreV1().Secrets("").List(ctx, opts)
	})
	err := list.EachListItem(ctx, metav1.ListOptions{}, func(obj runtime.Object) error {
		secret := obj.(*corev1.Secret)
		_, err := s.client.CoreV1().Secrets(secret.Namespace).Update(ctx, secret, metav1.UpdateOptions{})
		if err == nil {
			n++
		}
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) { // written or deleted by somebody else meanwhile
			return nil
		}
		if err != nil {
			return fmt.Errorf("write secret %s/%s anew: %w", secret.Namespace, secret.Name, err)
		}
		return nil
	})
	return n, err
}
