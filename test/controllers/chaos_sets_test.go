package controllers

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/plugins/scheduler"
	"keelson.dev/keelson/test/chaos"
	"keelson.dev/keelson/test/rounds"
)

// TestChaosStatefulSet: however the controllers die and whatever answers they do not get, no
// two pods have one ordinal, none is made before those below it are there, and in the end
// there is each that was asked for.
func TestChaosStatefulSet(t *testing.T) {
	c := chaosServer(t)
	set := statefulSet("db", 3)
	set.Spec.Template = chaosPods("db")
	run := chaos.Start(t, c.server, controllers.Plugin, `{"controllers":["statefulset"]}`)
	run.Pods("default", func(ch chaos.Change) error {
		if ch.Type != watch.Added {
			return nil
		}
		names := map[string]bool{}
		for _, p := range ch.Pods {
			if names[p.Name] {
				return fmt.Errorf("two pods %s", p.Name)
			}
			names[p.Name] = true
		}
		n, err := strconv.Atoi(strings.TrimPrefix(ch.New.Name, "db-"))
		for i := range n {
			if !names["db-"+strconv.Itoa(i)] {
				return fmt.Errorf("made without %d", i)
			}
		}
		return err
	})
	c.createSet(set)
	replicas := int32(3)
	patch := func(text string, args ...any) error {
		_, err := c.admin.AppsV1().StatefulSets("default").Patch(c.ctx, "db", types.MergePatchType, fmt.Appendf(nil, text, args...), metav1.PatchOptions{})
		return err
	}
	scale := func(r *rand.Rand) error {
		replicas = r.Int32N(5)
		return patch(`{"spec":{"replicas":%d}}`, replicas)
	}
	roll := func(r *rand.Rand) error {
		return patch(`{"spec":{"template":{"metadata":{"annotations":{"version":"%d"}}}}}`, r.IntN(3))
	}
	// Nobody but the controller deletes pods here: else one may be gone that it still sees.
	for range rounds.Or(t, 2) {
		run.Steps(12, scale, roll, c.failPod("db"))
		run.Settle("the set is as asked for", func() string {
			s, err := c.admin.AppsV1().StatefulSets("default").Get(c.ctx, "db", metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			if st := s.Status; st.ObservedGeneration != s.Generation || st.Replicas != replicas || st.UpdatedReplicas != replicas || st.AvailableReplicas != replicas || st.CurrentRevision != st.UpdateRevision {
				return fmt.Sprintf("%d pods are wanted: %+v", replicas, st)
			}
			for _, p := range c.pods("app=db") {
				if p.Annotations["version"] != s.Spec.Template.Annotations["version"] {
					return p.Name + " is of an old version"
				}
			}
			return c.revisionsInOrder("db", s.Status.UpdateRevision)
		})
	}
	t.Logf("the controllers died %d times", run.Kills)
}

// revisionsInOrder says what is wrong with the revisions of an app: numbers are there once,
// and the current one has the highest.
func (c *cluster) revisionsInOrder(app, current string) string {
	revs, err := c.admin.AppsV1().ControllerRevisions("default").List(c.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return err.Error()
	}
	numbers, newest := map[int64]string{}, int64(0)
	for _, r := range revs.Items {
		if other := numbers[r.Revision]; other != "" {
			return fmt.Sprintf("%s and %s are both number %d", other, r.Name, r.Revision)
		}
		numbers[r.Revision], newest = r.Name, max(newest, r.Revision)
	}
	if numbers[newest] != current {
		return fmt.Sprintf("the newest revision is %s, the current one %s", numbers[newest], current)
	}
	return ""
}

// TestChaosDaemonSet: however the controllers die and whatever answers they do not get, no
// node has two pods of a set at once (without surge), and in the end each node has its own.
func TestChaosDaemonSet(t *testing.T) {
	c := chaosServer(t)
	for _, name := range []string{"node-b", "node-c"} {
		c.addNode(name, nil)
	}
	for _, name := range []string{"node-a", "node-b", "node-c"} {
		c.patchNode(name, `{"spec":{"taints":null}}`) // the node life cycle's, which does not run here
	}
	c.run(scheduler.Plugin, `{"initialBackoff":"100ms"}`)
	run := chaos.Start(t, c.server, controllers.Plugin, `{"controllers":["daemonset"]}`)
	run.Pods("default", func(ch chaos.Change) error {
		on := map[string]int{}
		for _, p := range ch.Pods {
			node := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
			if !chaos.Active(p) {
				continue
			}
			if on[node]++; on[node] > 1 {
				return fmt.Errorf("two pods for %s", node)
			}
		}
		return nil
	})
	d := daemonSet("agent")
	d.Spec.Template.Spec.AutomountServiceAccountToken = new(false)
	d.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "agent", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"no"}}}}},
	}}}
	c.createDaemon(d)
	roll := func(r *rand.Rand) error {
		_, err := c.admin.AppsV1().DaemonSets("default").Patch(c.ctx, "agent", types.MergePatchType, fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{"version":"%d"}}}}}`, r.IntN(3)), metav1.PatchOptions{})
		return err
	}
	want := map[string]string{"node-a": "", "node-b": "", "node-c": ""} // label of each node
	move := func(r *rand.Rand) error {
		node := "node-" + string(rune('a'+r.IntN(3)))
		want[node] = []string{"", "no"}[r.IntN(2)]
		_, err := c.admin.CoreV1().Nodes().Patch(c.ctx, node, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"agent":%q}}}`, want[node]), metav1.PatchOptions{})
		return err
	}
	for range rounds.Or(t, 2) {
		run.Steps(12, roll, move, c.deletePod("agent"))
		run.Settle("each node has its pod", func() string {
			d, err := c.admin.AppsV1().DaemonSets("default").Get(c.ctx, "agent", metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			n := int32(0)
			for _, label := range want {
				if label == "" {
					n++
				}
			}
			pods := c.pods("app=agent")
			if s := d.Status; s.ObservedGeneration != d.Generation || s.DesiredNumberScheduled != n || s.NumberAvailable != n || s.UpdatedNumberScheduled != n || s.NumberMisscheduled != 0 || len(pods) != int(n) {
				return fmt.Sprintf("%d pods are wanted, %d there: %+v", n, len(pods), s)
			}
			for _, p := range pods {
				if want[p.Spec.NodeName] != "" || p.Annotations["version"] != d.Spec.Template.Annotations["version"] {
					return fmt.Sprintf("%s is on %s, of version %q", p.Name, p.Spec.NodeName, p.Annotations["version"])
				}
			}
			if len(pods) == 0 {
				return ""
			}
			return c.revisionsInOrder("agent", "agent-"+pods[0].Labels["controller-revision-hash"])
		})
	}
	t.Logf("the controllers died %d times", run.Kills)
}
