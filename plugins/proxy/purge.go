package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
)

// Purge removes the plugin's tables and folders. The plugin must not be running.
func Purge(_ context.Context, dataDir, runDir string, log *slog.Logger) error {
	errs := []error{deleteTables()}
	for _, dir := range []string{dataDir, runDir} {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("purge proxy: %w", err)
	}
	log.Info("Service rules removed")
	return nil
}
