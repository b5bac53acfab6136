package pluginhost

import (
	"context"
	"log/slog"
	"path/filepath"
)

// PluginDataDir is the data folder of a plugin below the host's Config.DataDir.
func PluginDataDir(dataDir, name string) string { return filepath.Join(dataDir, "plugins", name) }

// PluginRunDir is the folder of a plugin below the host's Config.RunDir.
func PluginRunDir(runDir, name string) string { return filepath.Join(runDir, "plugins", name) }

// Purge ends the plugins that a host which was killed left over on runDir, and
// removes their cgroups. No host may run on it.
func Purge(ctx context.Context, runDir, cgroupParent string, log *slog.Logger) {
	h := New(Config{RunDir: runDir, CgroupParent: cgroupParent, Log: log})
	h.cgroups = newCgroups(h.cfg.CgroupParent, log)
	h.sweep(ctx)
	h.cgroups.removeParent()
}
