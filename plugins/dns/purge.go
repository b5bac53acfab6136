package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
)

// Purge removes the plugin's link, with its addresses, and its folders. The plugin must
// not be running.
func Purge(_ context.Context, dataDir, runDir string, log *slog.Logger) error {
	errs := []error{deleteLink()}
	for _, dir := range []string{dataDir, runDir} {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("purge dns: %w", err)
	}
	log.Info("Cluster DNS removed", "link", linkName)
	return nil
}
