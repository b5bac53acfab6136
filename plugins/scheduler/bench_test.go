package scheduler

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// BenchmarkDecide is what deciding on a pod costs, without the API. cpu-µs/op is the
// processor's time: on a shared machine it says more than the wall's.
func BenchmarkDecide(b *testing.B) {
	ordinary := []podOption{requests("100m", "100Mi"), owned("rs"), labelled("app", "w")}
	for _, bb := range []struct {
		name string
		opts []podOption
		full bool // of pods of lower priority: each pod has one sent away
		gone int  // so many pods leave later, as many as come
	}{
		{name: "plain"},
		{name: "spread", opts: []podOption{spreading("w", corev1.LabelTopologyZone, 1)}},
		{name: "anti-affinity", opts: []podOption{notNear("w", corev1.LabelHostname)}, gone: 50},
		{name: "preemption", opts: []podOption{requests("1", "1Gi"), priority(10)}, full: true},
		{name: "churn", gone: 100},
	} {
		for _, nodes := range []int{100, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/nodes=%d", bb.name, nodes), func(b *testing.B) {
				c := newCache()
				for i := range nodes {
					name := fmt.Sprintf("node-%d", i)
					c.setNode(newNode(name, "4", "16Gi", maxPods("1000000"), nodeLabel(corev1.LabelTopologyZone, fmt.Sprint(i%3))))
					for j := 0; bb.full && j < 4; j++ {
						c.setPod(newPodInfo(newPod(fmt.Sprint("low", i, "-", j), requests("1", "1Gi"), onNode(name))))
					}
				}
				opts := append(slices.Clip(ordinary), bb.opts...)
				var there []*podInfo
				b.ReportAllocs()
				start := cpuTime()
				b.ResetTimer()
				for i := range b.N {
					p := newPodInfo(newPod(fmt.Sprint("p", i), opts...))
					d := c.decide(context.Background(), p, usual)
					if d.preempt != nil && d.preempt.node != "" {
						for _, v := range d.preempt.victims {
							c.removePod(v.pod.UID)
						}
						d = c.decide(context.Background(), p, usual)
					}
					if d.node == "" {
						b.Fatal(d.message)
					}
					there = append(there, p)
					// The cluster never gets full.
					if keep := max(bb.gone, 20*nodes); !bb.full && (bb.gone > 0 && len(there) > bb.gone || len(there) > keep) {
						c.removePod(there[0].pod.UID)
						there = there[1:]
					}
					if bb.full && len(there) > 2*nodes {
						c.removePod(there[0].pod.UID)
						there = there[1:]
					}
				}
				b.ReportMetric(float64((cpuTime()-start).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
