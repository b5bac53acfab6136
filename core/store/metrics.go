package store

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	etcdmetrics "k8s.io/apiserver/pkg/storage/etcd3/metrics"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// Metrics of all stores of this process. Requests and size have the names that kube-apiserver gives to those of its etcd,
// so that dashboards and alerts find them.
var (
	commitSeconds = metrics.NewHistogram(&metrics.HistogramOpts{
		Name:           "keelson_store_commit_duration_seconds",
		Help:           "Time of one commit of the store, its sync of the disk included.",
		Buckets:        metrics.ExponentialBuckets(0.0001, 2, 18), // to 13 s
		StabilityLevel: metrics.ALPHA,
	})
	commitChanges = metrics.NewHistogram(&metrics.HistogramOpts{
		Name:           "keelson_store_commit_changes",
		Help:           "Changes of objects that one commit of the store put on disk or in a batch.",
		Buckets:        []float64{0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024},
		StabilityLevel: metrics.ALPHA,
	})
	commitFailures  = counter("keelson_store_commit_failures_total", "Commits that the disk refused.")
	writtenBytes    = counter("keelson_store_written_bytes_total", "Bytes that commits of the store wrote to the write-ahead log.")
	compactions     = counter("keelson_store_compactions_total", "Commits that dropped history.")
	compactedTotal  = counter("keelson_store_compacted_versions_total", "Superseded versions and deletions that were dropped.")
	shrinkingsTotal = counter("keelson_store_shrinks_total", "Compactions of all tables into one level.")
	valueLogTotal   = counter("keelson_store_value_log_collections_total", "Files of the value log that were rewritten.")

	gauges = []*gauge{
		newGauge("keelson_store_revision", "Last revision on disk.", func(db *DB) float64 { return float64(db.rev) }),
		newGauge("keelson_store_history_revisions", "Revisions that can still be read and watched from.",
			func(db *DB) float64 { return float64(db.rev - db.compact) }),
		newGauge("keelson_store_keys", "Keys in the index, those of deleted objects in the history included.",
			func(db *DB) float64 { return float64(db.index.tree.Len()) }),
		newGauge("keelson_store_live_bytes", "Bytes of all versions that are kept.", func(db *DB) float64 { return float64(db.index.bytes) }),
		newGauge("keelson_store_table_bytes", "Bytes of Badger's tables.", func(db *DB) float64 { return float64(db.tableSize()) }),
		newGauge("keelson_store_batched_bytes", "Bytes of heartbeats that are held in memory.",
			func(db *DB) float64 { return float64(db.batch.size()) }),
	}
)

// write submits a change and counts it as a request to etcd is counted.
func (s *Storage) write(ctx context.Context, verb string, o *op) error {
	start := time.Now()
	err := s.db.submit(ctx, o)
	failed := err
	if errors.Is(err, errConflict) {
		failed = nil // an answer
	}
	etcdmetrics.RecordEtcdRequest(verb, s.resource, failed, start)
	return err
}

func counter(name, help string) *metrics.Counter {
	return metrics.NewCounter(&metrics.CounterOpts{Name: name, Help: help, StabilityLevel: metrics.ALPHA})
}

// gauge is read from the open stores when somebody asks. value runs with DB.mu held shared.
type gauge struct {
	desc  *metrics.Desc
	value func(*DB) float64
}

func newGauge(name, help string, value func(*DB) float64) *gauge {
	return &gauge{desc: metrics.NewDesc(name, help, nil, nil, metrics.ALPHA, ""), value: value}
}

// openDBs are the open stores of this process. A server has one.
var openDBs struct {
	mu   sync.Mutex
	all  map[*DB]bool
	once sync.Once
}

// observe makes the DB part of the metrics, until forget.
func (db *DB) observe() {
	openDBs.once.Do(func() {
		legacyregistry.MustRegister(commitSeconds, commitChanges, commitFailures, writtenBytes, compactions, compactedTotal, shrinkingsTotal, valueLogTotal)
		legacyregistry.CustomMustRegister(&gaugeCollector{})
		etcdmetrics.Register()
		etcdmetrics.SetStorageMonitorGetter(monitors)
	})
	openDBs.mu.Lock()
	defer openDBs.mu.Unlock()
	if openDBs.all == nil {
		openDBs.all = map[*DB]bool{}
	}
	openDBs.all[db] = true
}

func (db *DB) forget() {
	openDBs.mu.Lock()
	defer openDBs.mu.Unlock()
	delete(openDBs.all, db)
}

func eachOpen(f func(*DB)) {
	openDBs.mu.Lock()
	defer openDBs.mu.Unlock()
	for db := range openDBs.all {
		f(db)
	}
}

// gaugeCollector collects gauges.
type gaugeCollector struct{ metrics.BaseStableCollector }

// DescribeWithStability implements metrics.StableCollector.
func (*gaugeCollector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, g := range gauges {
		ch <- g.desc
	}
}

// CollectWithStability implements metrics.StableCollector.
func (*gaugeCollector) CollectWithStability(ch chan<- metrics.Metric) {
	sums, open := make([]float64, len(gauges)), false
	eachOpen(func(db *DB) {
		open = true
		db.mu.RLock()
		defer db.mu.RUnlock()
		for i, g := range gauges {
			sums[i] += g.value(db)
		}
	})
	if !open {
		return
	}
	for i, g := range gauges {
		ch <- metrics.NewLazyConstMetric(g.desc, metrics.GaugeValue, sums[i])
	}
}

// monitors gives the sizes of the open stores to upstream's collector.
func monitors() (all []etcdmetrics.Monitor, err error) {
	eachOpen(func(db *DB) { all = append(all, sizeMonitor{db.opts.Dir}) })
	return all, nil
}

type sizeMonitor struct{ dir string }

// Monitor implements etcdmetrics.Monitor: the blocks that the store's files have.
func (m sizeMonitor) Monitor(context.Context) (etcdmetrics.StorageMetrics, error) {
	return etcdmetrics.StorageMetrics{Size: blockBytes(m.dir)}, nil
}

// Close implements etcdmetrics.Monitor.
func (sizeMonitor) Close() error { return nil }

// blockBytes is what the files of a directory take on disk.
func blockBytes(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil { // tables come and go meanwhile
			n += st.Blocks * 512
		}
		return nil
	})
	return n
}
