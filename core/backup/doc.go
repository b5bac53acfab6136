// Package backup takes backups of a cluster, restores them, and exchanges them with etcd.
//
// A backup file is a format of its own, independent of the store's: Writer and Reader, described in docs/backup.md.
// An etcd v3 snapshot (ReadEtcd, WriteEtcd) is the backend file of an etcd member, as `etcdctl snapshot save` makes it.
//
// Restore builds what it restores beside the data folder's own files, and puts it in their place in one step: Finish
// completes a restore that was decided on before the process was killed.
//
// A Scheduler takes backups at the times of a cron expression.
package backup
