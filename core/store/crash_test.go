package store

import (
	"bufio"
	"fmt"
	"io"
	"testing"
	"time"
)

// TestKill kills a writing process again and again. After each time every acknowledged write has to be there, and
// no revision may ever be given twice.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	type write struct {
		n   int
		rev uint64
	}
	acked := map[string]write{}
	given := map[uint64]bool{}
	var newest uint64
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		cmd := child(t, "write", dir, "")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(150+70*round)*time.Millisecond, func() { _ = cmd.Process.Kill() })
		lines := bufio.NewReader(out)
		count := 0
		for {
			line, err := lines.ReadString('\n')
			if err == io.EOF {
				break // a line cut short by the kill was not acknowledged
			}
			var key string
			var w write
			if _, err := fmt.Sscanf(line, "ack %s %d %d", &key, &w.n, &w.rev); err != nil {
				t.Errorf("round %d: child says %q", round, line)
				continue
			}
			if given[w.rev] || w.rev <= 1 {
				t.Errorf("round %d: revision %d given twice", round, w.rev)
			}
			given[w.rev] = true
			acked[key] = w
			newest = max(newest, w.rev)
			count++
		}
		timer.Stop()
		_ = cmd.Wait() // killed
		db := openTest(t, Options{Dir: dir, CompactionWindow: time.Hour})
		if got := db.Revision(); got < newest {
			t.Fatalf("round %d: revision %d after the kill, %d was acknowledged", round, got, newest)
		}
		for key, w := range acked {
			v, found, _ := db.latest(key)
			if !found {
				v = version{}
				if e := db.index.get(key); e != nil {
					v.rev = e.versions[len(e.versions)-1].rev
				}
			}
			// A deletion may have been compacted away; nothing else may be missing.
			if deleted := v.rev == 0 && (w.n%7 == 6 || (w.n+1)%7 == 6); v.rev < w.rev && !deleted {
				t.Errorf("round %d: %s is at revision %d, number %d at revision %d was acknowledged", round, key, v.rev, w.n, w.rev)
			}
			if v.rev == w.rev && found {
				value, err := childRead(db, key, v.rev)
				if want := string(childValue(key, w.n, 0)); err != nil || string(value[:len(want)]) != want {
					t.Errorf("round %d: %s at revision %d: got %.40q, %v, want %q...", round, key, v.rev, value, err, want)
				}
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: %d writes acknowledged, revision %d", round, count, newest)
	}
}
