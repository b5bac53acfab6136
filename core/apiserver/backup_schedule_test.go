package apiserver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/backup"
)

func TestBackupOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    BackupOptions
		want string // in the only error; empty: none
	}{
		{"none", newBackupOptions(), ""},
		{"daily", BackupOptions{Schedule: "@daily", Dir: "/srv/backups", Retention: 1}, ""},
		{"no folder", BackupOptions{Schedule: "@daily", Retention: 1}, "--backup-dir: must name"},
		{"no schedule", BackupOptions{Dir: "/srv/backups", Retention: 1}, "--backup-dir /srv/backups: goes with --backup-schedule"},
		{"not a schedule", BackupOptions{Schedule: "25 o'clock", Dir: "/srv/backups", Retention: 1}, `--backup-schedule "25 o'clock": expected exactly 5 fields`},
		{"too often", BackupOptions{Schedule: "@every 1s", Dir: "/srv/backups", Retention: 1}, `--backup-schedule "@every 1s": it is more often`},
		{"a file", BackupOptions{Schedule: "@daily", Dir: file, Retention: 1}, `--backup-dir "` + file + `": must be a folder`},
		{"keep none", BackupOptions{Retention: 0}, "--backup-retention 0: must be at least 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			errs := tt.o.validate()
			if tt.want == "" && len(errs) == 0 {
				return
			}
			if len(errs) != 1 || tt.want == "" || !strings.Contains(errs[0].Error(), tt.want) {
				t.Errorf("got %v, want %q", errs, tt.want)
			}
		})
	}
}

// backupMetric gives the line of a metric.
func backupMetric(t *testing.T, h *harness, name string) string {
	t.Helper()
	text, err := h.admin.CoreV1().RESTClient().Get().AbsPath("/metrics").Do(t.Context()).Raw()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if value, ok := strings.CutPrefix(line, name); ok {
			return value
		}
	}
	return ""
}

// TestScheduledBackup starts a server whose last backup is old: one is taken, and metrics tell of it. Then
// reports of failures are looked at: metric, event and words.
func TestScheduledBackup(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "keelson-20200101T000000Z.keelson"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h := start(t, func(c *Config) {
		c.Options.Backup = BackupOptions{Schedule: "@daily", Dir: dir, Retention: 1}
	})
	ctx := t.Context()
	long(t, "a backup was taken, and the old one removed", func() bool {
		all, err := backup.List(ctx, dir, true)
		return err == nil && len(all) == 1 && all[0].Err == nil && all[0].Header.Revision > 0
	})
	long(t, "metrics tell of it", func() bool { return backupMetric(t, h, `keelson_backup_runs_total{result="success"}`) != "" })
	for _, name := range []string{"keelson_backup_last_size_bytes", "keelson_backup_last_success_timestamp_seconds", "keelson_backup_last_duration_seconds"} {
		if got := backupMetric(t, h, name+" "); got == "" || got == "0" {
			t.Errorf("%s is %q", name, got)
		}
	}
	h.reportBackup(ctx, &backup.Outcome{Begun: time.Now(), Err: &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}})
	if got := backupMetric(t, h, `keelson_backup_runs_total{result="failure"}`); got == "" {
		t.Errorf("failures: %q", got)
	}
	h.reportBackup(ctx, &backup.Outcome{Begun: time.Now(), RemoveErr: errors.New("read only")})
	events, err := h.admin.CoreV1().Events("kube-system").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for i := range events.Items {
		said[events.Items[i].Reason] = events.Items[i].Message
	}
	if m := said[reasonBackupFailed]; !strings.Contains(m, `--backup-dir "`+dir+`": the disk is full (`) || !strings.Contains(m, "--backup-retention (now 1)") {
		t.Errorf("event of a full disk: %q", m)
	}
	if m := said[reasonBackupsNotPrune]; !strings.Contains(m, "read only") {
		t.Errorf("event of old backups: %q", m)
	}
}
