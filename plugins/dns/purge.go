package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"keelson.dev/keelson/plugins/kit"
)

// Purge removes the plugin's link, with its addresses, and its folders. The plugin must
// not be running.
func Purge(_ context.Context, dataDir, runDir string, log *slog.Logger) error {
	if err := errors.Join(deleteLink(), kit.RemoveDirs(dataDir, runDir)); err != nil {
		return fmt.Errorf("purge dns: %w", err)
	}
	log.Info("Cluster DNS removed", "link", linkName)
	return nil
}
