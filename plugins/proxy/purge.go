package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"keelson.dev/keelson/plugins/kit"
)

// Purge removes the plugin's tables and folders. The plugin must not be running.
func Purge(_ context.Context, dataDir, runDir string, log *slog.Logger) error {
	if err := errors.Join(deleteTables(), kit.RemoveDirs(dataDir, runDir)); err != nil {
		return fmt.Errorf("purge proxy: %w", err)
	}
	log.Info("Service rules removed")
	return nil
}
