package nodes

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// conditionTaints are the NoSchedule taints that conditions call for.
var conditionTaints = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	key       string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// noScheduleFor lists the keys of the NoSchedule taints that a node should
// have of those that are ours to set.
func noScheduleFor(n *corev1.Node) []string {
	var keys []string
	for _, t := range conditionTaints {
		if c := nodeCondition(n, t.condition); c != nil && c.Status == t.status {
			keys = append(keys, t.key)
		}
	}
	if readyCondition(n) == nil {
		keys = append(keys, corev1.TaintNodeNotReady)
	}
	if n.Spec.Unschedulable {
		keys = append(keys, corev1.TaintNodeUnschedulable)
	}
	return keys
}

func ours(t corev1.Taint) bool {
	switch t.Effect {
	case corev1.TaintEffectNoSchedule:
		return t.Key == corev1.TaintNodeUnschedulable ||
			slices.ContainsFunc(conditionTaints, func(c struct {
				condition corev1.NodeConditionType
				status    corev1.ConditionStatus
				key       string
			}) bool {
				return c.key == t.Key
			})
	case corev1.TaintEffectNoExecute:
		return t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable
	}
	return false
}

// noExecuteFor is the key of the NoExecute taint for the node's state, or "".
func noExecuteFor(n *corev1.Node) string {
	switch c := readyCondition(n); {
	case c == nil || c.Status == corev1.ConditionTrue:
		return ""
	case c.Status == corev1.ConditionUnknown:
		return corev1.TaintNodeUnreachable
	}
	return corev1.TaintNodeNotReady
}

// desiredTaints keeps the taints of others, and sets ours. noExecute may be "".
func desiredTaints(n *corev1.Node, noExecute string, now metav1.Time) []corev1.Taint {
	want := map[corev1.Taint]bool{}
	for _, key := range noScheduleFor(n) {
		want[corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule}] = true
	}
	if noExecute != "" {
		want[corev1.Taint{Key: noExecute, Effect: corev1.TaintEffectNoExecute}] = true
	}
	var out []corev1.Taint
	for _, t := range n.Spec.Taints {
		id := corev1.Taint{Key: t.Key, Effect: t.Effect}
		if !ours(t) || want[id] {
			out = append(out, t)
			delete(want, id)
		}
	}
	for _, effect := range []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute} {
		var keys []string
		for t := range want {
			if t.Effect == effect {
				keys = append(keys, t.Key)
			}
		}
		slices.Sort(keys)
		for _, key := range keys {
			out = append(out, corev1.Taint{Key: key, Effect: effect, TimeAdded: &now})
		}
	}
	return out
}

func (l *Lifecycle) taint(ctx context.Context, n *corev1.Node) error {
	noExecute := noExecuteFor(n)
	has := slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoExecute && ours(t)
	})
	if noExecute != "" {
		if wait := l.mayGiveUp(n, has); wait < 0 {
			noExecute = ""
		} else if wait > 0 {
			noExecute = ""
			l.loop.EnqueueAfter(n.Name, wait)
		}
	}
	next := desiredTaints(n, noExecute, metav1.Now())
	if slices.EqualFunc(n.Spec.Taints, next, func(a, b corev1.Taint) bool { return a.MatchTaint(&b) && a.Value == b.Value }) {
		return nil
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": n.UID, "resourceVersion": n.ResourceVersion},
		"spec":     map[string]any{"taints": next},
	})
	if err != nil {
		return fmt.Errorf("encode taints: %w", err)
	}
	_, err = l.client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, data, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("set taints of node %s: %w", n.Name, err)
	}
	return nil
}

// mayGiveUp tells whether the node may get (or, with has, keep) a NoExecute
// taint: now (0), after some time, or not while all nodes or too many of a small zone are
// down (negative).
func (l *Lifecycle) mayGiveUp(n *corev1.Node, has bool) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.allDown || l.onlyNodesDownLocked() {
		return -1
	}
	if has {
		return 0
	}
	name := zoneOf(n)
	interval, ok := l.timing.pace(l.zones[name])
	if !ok || l.zones == nil { // until the zones are counted for the first time
		return -1
	}
	now := time.Now()
	if wait := l.evicted[name].Add(interval).Sub(now); wait > 0 {
		return wait
	}
	l.evicted[name] = now
	return 0
}

// onlyNodesDownLocked looks at the cache itself: between a node's fall and the
// next round of monitor, allDown is out of date.
func (l *Lifecycle) onlyNodesDownLocked() bool {
	all, err := l.nodes.List(labels.Everything())
	if err != nil || len(all) == 0 {
		return true
	}
	return !slices.ContainsFunc(all, isReady)
}
