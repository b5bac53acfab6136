package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBackupList(t *testing.T) {
	data, dir := dataFolder(t, 2), filepath.Join(t.TempDir(), "backups")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t, "backup", "list", "--data-dir", data); err == nil || !strings.Contains(err.Error(), "--backup-dir") {
		t.Errorf("a cluster without a schedule: %v", err)
	}
	if err := os.WriteFile(filepath.Join(data, settingsFile), []byte(`{"api":{"backup-dir":["`+dir+`"]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err := run(t, "backup", "list", "--data-dir", data)
	if err != nil || out != "No backups in "+dir+"\n" {
		t.Errorf("an empty folder: %q, %v", out, err)
	}
	taken := filepath.Join(dir, "keelson-20261121T030000Z.keelson")
	if _, _, err := run(t, "backup", taken, "--data-dir", data, "--run-dir", t.TempDir()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, file, content, state, wrong string }{
		{"whole", "", "", "whole", ""},
		{"damaged", "b.keelson", "KEELSONB", "damaged", "1 of 2 backups"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.file != "" {
				if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, _, err := run(t, "backup", "list", "--verify", dir)
			if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("got %v, want %q", err, tt.wrong)
			}
			if !strings.Contains(out, filepath.Base(taken)) || !strings.Contains(out, tt.state) || !strings.Contains(out, "cluster") {
				t.Errorf("printed:\n%s", out)
			}
		})
	}
	if _, _, err := run(t, "backup", "list", filepath.Join(dir, "none")); err == nil {
		t.Error("a folder that is not there")
	}
}
