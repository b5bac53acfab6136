package store

import (
	"os"
	"strings"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/component-base/metrics/legacyregistry"
)

// gathered are the metrics that /metrics serves: the values of counters and gauges and the counts of histograms, summed
// over their labels.
func gathered(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			all[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func TestMetrics(t *testing.T) {
	ctx, s := newTest(t, fixture{options: Options{CompactionWindow: time.Hour}})
	before := gathered(t)
	p := mustCreate(ctx, t, s, pod("ns", "a"))
	for range 3 {
		label(ctx, t, s, podKey(p), time.Now().String())
	}
	if err := s.GetList(ctx, "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, &example.PodList{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, podKey(p), &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := gathered(t)["keelson_store_history_revisions"]; got != 6 {
		t.Errorf("%v revisions of history, want 6", got)
	}
	if err := s.db.Compact(ctx, s.db.Revision()); err != nil {
		t.Fatal(err)
	}
	if err := s.db.flatten(); err != nil {
		t.Fatal(err)
	}
	after := gathered(t)
	for name, want := range map[string]float64{
		"keelson_store_commit_duration_seconds":     6,
		"keelson_store_commit_changes":              6,
		"keelson_store_commit_failures_total":       0,
		"keelson_store_compactions_total":           1,
		"keelson_store_compacted_versions_total":    5,
		"keelson_store_shrinks_total":               1,
		"keelson_store_value_log_collections_total": 0,
		"etcd_requests_total":                       6, // create, three updates, list, delete
		"etcd_request_duration_seconds":             6,
		"etcd_request_errors_total":                 0,
	} {
		if got := after[name] - before[name]; got != want {
			t.Errorf("%s grew by %v, want %v", name, got, want)
		}
	}
	if got := after["keelson_store_written_bytes_total"] - before["keelson_store_written_bytes_total"]; got < 1000 || got > 10000 {
		t.Errorf("%v bytes written, want some thousand", got)
	}
	for name, want := range map[string]float64{
		"keelson_store_revision": 6, "keelson_store_history_revisions": 0, "keelson_store_keys": 0, "keelson_store_live_bytes": 0,
	} {
		if got, found := after[name]; !found || got != want {
			t.Errorf("%s is %v (%t), want %v", name, got, found, want)
		}
	}
	if got, want := after["apiserver_storage_size_bytes"], float64(blockBytes(s.db.opts.Dir)); got != want || got == 0 {
		t.Errorf("apiserver_storage_size_bytes is %v, want %v", got, want)
	}
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, found := gathered(t)["keelson_store_revision"]; found {
		t.Error("a closed store has metrics")
	}
}

// TestMetricsDocumented wants all names in docs/store.md.
func TestMetricsDocumented(t *testing.T) {
	openTest(t, Options{})
	doc, err := os.ReadFile("../../docs/store.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for name := range gathered(t) {
		if strings.HasPrefix(name, "keelson_store_") {
			if found++; !strings.Contains(string(doc), "`"+name+"`") {
				t.Errorf("%s is not in docs/store.md", name)
			}
		}
	}
	if found < 10 {
		t.Errorf("%d metrics, want all", found)
	}
}

func TestSlowDisk(t *testing.T) {
	var s stats
	now := time.Now()
	if err := s.slow(now); err != nil {
		t.Errorf("no commit yet: %v", err)
	}
	s.begin(now)
	for after, slow := range map[time.Duration]bool{0: false, slowCommit - 1: false, slowCommit: true, time.Hour: true} {
		if err := s.slow(now.Add(after)); (err != nil) != slow {
			t.Errorf("a commit runs for %s: got %v, want it slow: %t", after, err, slow)
		}
	}
	s.end(1, 100, 0, time.Hour, nil)
	if err := s.slow(now.Add(time.Hour)); err != nil {
		t.Errorf("the commit has ended: %v", err)
	}
}
