package store

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/watch"
)

// long says that the tests are to take the time they need: hours' worth instead of seconds.
func long() bool { return os.Getenv("KEELSON_LONG") != "" }

// times is how often a test does what it does: usually, in the short form, or in the long one. KEELSON_ROUNDS cuts the
// long form into pieces.
func times(t *testing.T, usual, short, most int) int {
	t.Helper()
	switch {
	case long():
		s := os.Getenv("KEELSON_ROUNDS")
		if s == "" {
			return most
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("KEELSON_ROUNDS=%q: must be a number above 0", s)
		}
		return min(n, most)
	case testing.Short():
		return short
	}
	return usual
}

// TestKill kills a process that writes, watches, compacts, opens or closes, at random points, again and again. After
// each time every acknowledged write has to be there, at its own revision too unless that was compacted, no revision
// may be given twice, and watchers go on from the last revision they saw without a gap and without seeing one twice.
func TestKill(t *testing.T) {
	rounds := times(t, 160, 6, 3000)
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("KEELSON_SEED"), 10, 64); err == nil {
		seed = s
	}
	m := &crashModel{t: t, acks: map[uint64]crashWrite{}, newest: map[string]uint64{}, removed: map[string]uint64{}, rand: rand.New(rand.NewPCG(seed, 1))}
	dir := t.TempDir()
	little := func() bool {
		return len(m.acks) < 20*rounds/4 || m.compact == 0 || !testing.Short() && (m.opening == 0 || m.closing == 0)
	}
	for ; m.round < rounds || little() && m.round < 20*rounds; m.round++ { // a busy machine does less in a round
		m.run(dir, m.plan(m.round))
		if t.Failed() {
			t.Fatalf("round %d failed; the seed was %d", m.round, seed)
		}
	}
	m.finish(dir)
	t.Logf("seed %d: %d rounds, %d killed while opening, %d while closing; %d writes acknowledged up to revision %d, %d events, compacted to %d",
		seed, m.round, m.opening, m.closing, len(m.acks), m.top, len(m.events[0]), m.compact)
	if little() {
		t.Error("the rounds did too little to show anything")
	}
}

// crashWrite is one acknowledged write.
type crashWrite struct {
	key, number string
	deleted     bool
}

// crashPlan is how one round ends: killed so long after a line, or after it closed.
type crashPlan struct {
	after string // the line
	delay time.Duration
	close time.Duration // 0: never
	last  bool
}

// crashModel is what the parent knows.
type crashModel struct {
	t     *testing.T
	rand  *rand.Rand
	round int

	acks    map[uint64]crashWrite
	newest  map[string]uint64 // key -> revision of its last acknowledged write
	top     uint64            // highest revision anybody saw
	compact uint64            // acknowledged
	seen    [crashWatchers]uint64
	events  [crashWatchers]map[uint64]string
	removed map[string]uint64 // name -> revision of its last deletion that a watcher saw, acknowledged or not

	versions map[string]map[uint64]string // of the dump at hand: key -> revision -> number, "-" for a deletion
	opened   uint64

	opening, closing int

	cut  func()      // cuts the power; nil: the process is killed only
	gone atomic.Bool // it was cut in this round

}

func (m *crashModel) plan(round int) crashPlan {
	ms := func(n int) time.Duration { return time.Duration(m.rand.IntN(n*1000)) * time.Microsecond }
	switch round % 5 {
	case 0:
		return crashPlan{after: "start", delay: ms(60)} // while it opens, or soon after
	case 1:
		return crashPlan{after: "closing", delay: ms(40), close: ms(60)}
	}
	return crashPlan{after: "dumped", delay: ms(150)}
}

// run starts a child, reads what it says and kills it.
func (m *crashModel) run(dir string, plan crashPlan) {
	cmd := child(m.t, "churn", dir, "")
	resume := make([]string, crashWatchers)
	for i := range resume {
		resume[i] = fmt.Sprint(m.seen[i])
	}
	cmd.Env = append(cmd.Env, crashResume+"="+strings.Join(resume, ","))
	if plan.close > 0 {
		cmd.Env = append(cmd.Env, crashClose+"="+plan.close.String())
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	guard := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	defer guard.Stop()
	var said string // the last of the lines that tell how far it came
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break // a line cut short by the kill was not said
		}
		line = strings.TrimSuffix(line, "\n")
		if !m.take(line) {
			said = line
		}
		if line == plan.after && !plan.last {
			time.AfterFunc(plan.delay, func() {
				if m.cut != nil {
					m.gone.Store(true)
					m.cut()
				}
				_ = cmd.Process.Kill()
			})
		}
	}
	_ = cmd.Wait() // killed
	switch said {
	case "start":
		m.opening++
	case "closing":
		m.closing++
	}
	m.versions = nil
	m.gone.Store(false)
}

// take notes one line; false for one that tells how far the child came.
func (m *crashModel) take(line string) bool {
	f := strings.Fields(line)
	switch {
	case len(f) == 3 && f[0] == "opened":
		m.open(parse(f[1]), parse(f[2]))
	case len(f) == 5 && f[0] == "version":
		if m.versions[f[1]] == nil {
			m.versions[f[1]] = map[uint64]string{}
		}
		m.versions[f[1]][parse(f[2])] = f[4]
	case line == "dumped":
		m.check()
		return false
	case len(f) == 5 && f[0] == "ack":
		m.ack(f[1], f[2], parse(f[3]), f[4] == "delete")
	case len(f) == 6 && f[0] == "event":
		m.event(int(parse(f[1])), parse(f[2]), f[4]+" "+f[5])
		if f[3] == string(watch.Deleted) {
			m.removed[f[4]] = max(m.removed[f[4]], parse(f[2]))
		}
	case len(f) == 2 && f[0] == "compacted":
		m.compact = max(m.compact, parse(f[1]))
	case line == "start", line == "closing", line == "closed":
		return false
	case m.gone.Load():
		// the power is cut, and the kill comes; errors of several lines
	default:
		m.t.Errorf("round %d: the child says %q", m.round, line)
	}
	return true
}

func parse(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func (m *crashModel) open(rev, compact uint64) {
	m.versions = map[string]map[uint64]string{}
	m.opened = rev
	if rev < m.top {
		m.t.Errorf("round %d: the store is at revision %d, %d was seen", m.round, rev, m.top)
	}
	if compact < m.compact {
		m.t.Errorf("round %d: compacted to %d, it was %d", m.round, compact, m.compact)
	}
	m.compact = compact
}

func (m *crashModel) ack(key, number string, rev uint64, deleted bool) {
	if old, ok := m.acks[rev]; ok || rev <= m.opened {
		m.t.Errorf("round %d: revision %d for %s was given before, to %v (the store began at %d)", m.round, rev, key, old, m.opened)
	}
	m.acks[rev] = crashWrite{key: key, number: number, deleted: deleted}
	m.newest[key] = max(m.newest[key], rev)
	m.top = max(m.top, rev)
}

func (m *crashModel) event(w int, rev uint64, what string) {
	if rev <= m.seen[w] {
		m.t.Errorf("round %d: watcher %d got revision %d after %d", m.round, w, rev, m.seen[w])
	}
	if m.events[w] == nil {
		m.events[w] = map[uint64]string{}
	}
	m.events[w][rev] = what
	m.seen[w] = rev
	m.top = max(m.top, rev)
}

// check compares the store as it was opened with what was acknowledged.
func (m *crashModel) check() {
	for key, rev := range m.newest {
		if strings.HasPrefix(key, crashLease) && !m.acks[rev].deleted {
			continue // may be as it was before; checked below
		}
		var newest uint64
		for r := range m.versions[key] {
			newest = max(newest, r)
		}
		removed := m.removed[key[strings.LastIndex(key, "/")+1:]]
		gone := m.acks[rev].deleted && rev <= m.compact || removed > rev && removed <= m.compact
		if newest < rev && !gone {
			m.t.Errorf("round %d: %s is at revision %d, %d was acknowledged", m.round, key, newest, rev)
		}
	}
	for rev, w := range m.acks {
		got, found := m.versions[w.key][rev]
		want := w.number
		if w.deleted {
			want = "-"
		}
		switch {
		case found && got != want:
			m.t.Errorf("round %d: %s at revision %d holds %s, want %s", m.round, w.key, rev, got, want)
		case !found && rev > m.compact && (w.deleted || !strings.HasPrefix(w.key, crashLease)):
			m.t.Errorf("round %d: %s at revision %d is lost, the store is compacted to %d", m.round, w.key, rev, m.compact)
		}
	}
}

// finish lets a last child close in order, and compares what each watcher saw with what was acknowledged.
func (m *crashModel) finish(dir string) {
	m.round++
	db, err := Open(m.t.Context(), crashOptions(dir))
	if err != nil {
		m.t.Fatal(err)
	}
	defer db.Close()
	waitFor(m.t, "all objects with an end are gone", func() bool {
		left := false
		db.mu.RLock()
		defer db.mu.RUnlock()
		db.index.ascend(crashTTL, "", func(e *entry) bool { left = left || e.latest() != nil; return true })
		return !left
	})
	for w := range crashWatchers {
		missing := 0
		for rev, a := range m.acks {
			if rev > m.seen[w] {
				continue // it had no time to see it
			}
			what, found := m.events[w][rev]
			switch {
			case found && what != a.key[strings.LastIndex(a.key, "/")+1:]+" "+a.number:
				m.t.Errorf("watcher %d at revision %d: saw %s, %s %s was written", w, rev, what, a.key, a.number)
			case !found && (a.deleted || !strings.HasPrefix(a.key, crashLease)):
				if missing++; missing < 5 {
					m.t.Errorf("watcher %d never saw revision %d of %s, it is at %d", w, rev, a.key, m.seen[w])
				}
			}
		}
	}
}
