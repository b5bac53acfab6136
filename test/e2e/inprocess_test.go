package e2e

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// withinKernel are the plugins that can run within the kernel's process, each with a
// configuration of which every round has another, none of which matters here.
var withinKernel = map[string]string{
	"controllers": `{"terminatedPodThreshold":%d}`,
	"dns":         `{"cacheEntries":%d}`,
	"proxy":       `{"coalesceMilliseconds":%d}`,
	"scheduler":   `{"maxBackoff":"%dms"}`,
}

// testInProcess starts the cluster with plugins in the kernel's process, and swaps them
// there as testSwapPlugins does with processes. One is swapped out of it and back.
func (c *cluster) testInProcess(t *testing.T) {
	names := slices.Sorted(maps.Keys(withinKernel))
	c.keelson(t, "down")
	out := c.keelson(t, "up", "--plugins-in-process="+strings.Join(names, ","))
	kernel := serverPID(t, c.run)
	for _, name := range names {
		if want := fmt.Sprintf("%s runs, in the kernel's process %d", name, kernel); !strings.Contains(out, want) {
			t.Errorf("keelson up does not say %q:\n%s", want, out)
		}
		if pid := c.pluginPID(t, name); pid != kernel {
			t.Errorf("%s: its status says process %d, want the kernel's, %d", name, pid, kernel)
		}
	}
	if list := c.keelson(t, "plugins", "list"); strings.Count(list, fmt.Sprintf("%d (kernel)", kernel)) != len(names) {
		t.Errorf("keelson plugins list does not mark them:\n%s", list)
	}
	if log := c.keelson(t, "plugins", "logs", "dns"); !strings.Contains(log, "Cluster names are served") {
		t.Errorf("log of dns:\n%s", log)
	}
	c.rolledOut(t)
	c.answersOnly(t, "v1")

	client := c.clientset(t)
	rounds := swapRounds(t)
	restarts := c.restarts(t)
	requests := startLoad(c.machine, c.url)
	others := []*stream{c.keepAlive(t, client), c.lookUps(t, "udp"), c.lookUps(t, "tcp")}
	pods := c.startChurn(t, client)
	for _, name := range names {
		c.kubectl(t, "patch", "plugins.keelson.dev", name, "--type=merge", "--patch", `{"spec":{"swap":{"watchSeconds":1}}}`)
		var gaps []int64
		for i := range rounds {
			gaps = append(gaps, c.swapBy(t, client, name, func(pluginStatus) string {
				return fmt.Sprintf(`{"spec":{"config":`+withinKernel[name]+`}}`, 9_000+i)
			}))
		}
		slices.Sort(gaps)
		t.Logf("%s: %d swaps within the kernel's process, gap in ms: median %d, longest %d", name, len(gaps), gaps[len(gaps)/2], gaps[len(gaps)-1])
	}
	c.keelson(t, "plugins", "swap", "dns", "--path="+c.bin, "--arg=plugin-run", "--arg=dns", "--accept",
		"--plugin-dir="+filepath.Join(c.data, "plugins.d"))
	if pid := c.pluginPID(t, "dns"); pid == kernel || pid == 0 {
		t.Errorf("dns by path: its status says process %d, want one of its own", pid)
	}
	c.keelson(t, "plugins", "swap", "dns", "--built-in")
	if pid := c.pluginPID(t, "dns"); pid != kernel {
		t.Errorf("dns, built in again: its status says process %d, want the kernel's, %d", pid, kernel)
	}
	pods.end(t)
	for _, s := range others {
		s.end(t)
	}
	requests.endWithoutFailure(t)
	if now := c.restarts(t); !slices.Equal(now, restarts) {
		t.Errorf("containers changed:\nbefore %v\nafter  %v", restarts, now)
	}
	out, code := c.try("keelson", "plugins", "restart", "scheduler")
	if code != 0 {
		t.Errorf("keelson plugins restart scheduler: %s", out)
	}
	c.keelson(t, "down")
	c.keelson(t, "up", "--plugins-in-process=")
	for _, name := range names {
		if pid := c.pluginPID(t, name); pid == serverPID(t, c.run) || pid == 0 {
			t.Errorf("%s without the flag: its status says process %d", name, pid)
		}
	}
	c.answersOnly(t, "v1")
}
