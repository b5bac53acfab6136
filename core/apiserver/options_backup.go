package apiserver

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"keelson.dev/keelson/core/backup"
)

// BackupOptions say when the server takes backups of itself. By default it does not.
type BackupOptions struct {
	// Schedule is a cron expression; empty: none are taken.
	Schedule string
	// Dir is the folder that gets them.
	Dir string
	// Retention is how many whole ones stay. Default 7.
	Retention int
}

func newBackupOptions() BackupOptions { return BackupOptions{Retention: 7} }

func (o *BackupOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Schedule, "backup-schedule", o.Schedule,
		`When to take backups of the cluster: a cron expression such as "0 3 * * *" or @daily, in the machine's time zone or after CRON_TZ=ZONE`)
	fs.StringVar(&o.Dir, "backup-dir", o.Dir, "Folder for the backups of --backup-schedule, best on another disk")
	fs.IntVar(&o.Retention, "backup-retention", o.Retention, "How many backups of --backup-schedule to keep")
	markPaths(fs, "backup-dir")
}

func (o *BackupOptions) validate() []error {
	var errs []error
	switch {
	case o.Schedule == "" && o.Dir != "":
		errs = append(errs, fmt.Errorf("--backup-dir %s: goes with --backup-schedule, such as @daily", o.Dir))
	case o.Schedule != "" && o.Dir == "":
		errs = append(errs, errors.New("--backup-dir: must name a folder for the backups of --backup-schedule"))
	}
	if o.Schedule != "" {
		if _, err := backup.ParseSchedule(o.Schedule); err != nil {
			errs = append(errs, fmt.Errorf(`--backup-schedule %q: %w: must be a cron expression of five fields such as "0 3 * * *", or @daily`, o.Schedule, err))
		}
	}
	if o.Dir != "" {
		// One that is not there yet is made; one that cannot be read now may be mounted later.
		if info, err := os.Stat(o.Dir); err == nil && !info.IsDir() {
			errs = append(errs, fmt.Errorf("--backup-dir %q: must be a folder", o.Dir))
		}
	}
	if o.Retention < 1 {
		errs = append(errs, fmt.Errorf("--backup-retention %d: must be at least 1", o.Retention))
	}
	return errs
}
