package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/store"
)

// Reasons of the Events about scheduled backups. They regard the namespace kube-system.
const (
	reasonBackupFailed    = "BackupFailed"
	reasonBackupsNotPrune = "OldBackupsNotRemoved"
)

// eventTimeout bounds the writing of such an Event.
const eventTimeout = 10 * time.Second

// backupMetrics are made known when the first server has a schedule.
var backupMetrics = struct {
	once                  sync.Once
	success, bytes, times *metrics.Gauge
	runs                  *metrics.CounterVec
}{
	success: metrics.NewGauge(&metrics.GaugeOpts{
		Name: "keelson_backup_last_success_timestamp_seconds", StabilityLevel: metrics.ALPHA,
		Help: "When the newest scheduled backup was begun, in seconds since 1970; that of an earlier run counts.",
	}),
	bytes: metrics.NewGauge(&metrics.GaugeOpts{
		Name: "keelson_backup_last_size_bytes", StabilityLevel: metrics.ALPHA, Help: "Size of the newest scheduled backup that this server took.",
	}),
	times: metrics.NewGauge(&metrics.GaugeOpts{
		Name: "keelson_backup_last_duration_seconds", StabilityLevel: metrics.ALPHA, Help: "How long the last scheduled backup took, whatever came of it.",
	}),
	runs: metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "keelson_backup_runs_total", StabilityLevel: metrics.ALPHA, Help: "Scheduled backups by result: success or failure.",
	}, []string{"result"}),
}

// runBackups takes backups by the operator's schedule, if there is one, until ctx ends.
func (s *Server) runBackups(ctx context.Context) error {
	o := &s.config.Options.Backup
	if o.Schedule == "" {
		return nil
	}
	next, err := backup.ParseSchedule(o.Schedule)
	if err != nil {
		return fmt.Errorf("--backup-schedule %q: %w", o.Schedule, err) // validated before
	}
	m := &backupMetrics
	m.once.Do(func() { legacyregistry.MustRegister(m.success, m.bytes, m.times, m.runs) })
	if at := backup.LastScheduled(o.Dir); !at.IsZero() {
		m.success.Set(float64(at.Unix()))
	}
	scheduler := backup.Scheduler{
		Next: next, Dir: o.Dir, Keep: o.Retention, Log: s.config.Log,
		Write: func(ctx context.Context, w io.Writer) error {
			return backup.Write(ctx, w, s.config.DB, s.config.BackupFiles, "")
		},
		Report: func(out backup.Outcome) { s.reportBackup(ctx, &out) }, //nolint:contextcheck // ctx is that of Run
	}
	scheduler.Run(ctx)
	return nil
}

// reportBackup tells log, metrics and events of a scheduled backup.
func (s *Server) reportBackup(ctx context.Context, out *backup.Outcome) {
	log, m := s.config.Log, &backupMetrics
	m.times.Set(out.Took.Seconds())
	if out.Err != nil {
		m.runs.WithLabelValues("failure").Inc()
		err := s.explainBackup(out.Err)
		log.Error("A scheduled backup was not taken", "err", err)
		s.backupEvent(ctx, reasonBackupFailed, "no backup was taken: "+err.Error())
		return
	}
	m.runs.WithLabelValues("success").Inc()
	m.success.Set(float64(out.Begun.Unix()))
	m.bytes.Set(float64(out.Bytes))
	log.Info("Backup taken", "path", out.Path, "bytes", out.Bytes, "objects", out.Objects, "revision", out.Revision,
		"took", out.Took.Round(time.Millisecond), "removed", out.Removed)
	if out.RemoveErr != nil {
		err := s.explainBackup(out.RemoveErr)
		log.Warn("Old backups are still there", "err", err)
		s.backupEvent(ctx, reasonBackupsNotPrune, err.Error())
	}
}

// explainBackup names the flag that an error is about.
func (s *Server) explainBackup(err error) error {
	o := &s.config.Options.Backup
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("--backup-dir %q: the disk is full (%s): free space, choose another folder, or keep fewer with --backup-retention (now %d): %w",
			o.Dir, store.FreeText(o.Dir), o.Retention, err)
	default:
		return fmt.Errorf("--backup-dir %q: %w", o.Dir, err)
	}
}

func (s *Server) backupEvent(ctx context.Context, reason, note string) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	const longest = 1024 // of a note, by the API
	_, err := s.client.EventsV1().Events(metav1.NamespaceSystem).Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "backup-"}, EventTime: metav1.NowMicro(), Type: corev1.EventTypeWarning,
		Reason: reason, Action: "Backup", Note: note[:min(len(note), longest)],
		ReportingController: "keelson.dev/server", ReportingInstance: s.config.AdvertiseAddress.String(),
		Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Namespace", Name: metav1.NamespaceSystem, Namespace: metav1.NamespaceSystem},
	}, metav1.CreateOptions{})
	if err != nil && ctx.Err() == nil {
		s.config.Log.Warn("An event about backups could not be written", "err", err)
	}
}
