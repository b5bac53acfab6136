package controllers

import (
	"fmt"
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func replication(name string, replicas int32) *corev1.ReplicationController {
	l := map[string]string{"app": name}
	return &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.ReplicationControllerSpec{Replicas: &replicas, Selector: l, Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: l},
			Spec: corev1.PodSpec{
				TerminationGracePeriodSeconds: ptr.To[int64](1),
				Containers:                    []corev1.Container{{Name: "c", Image: "app:1"}},
			},
		}},
	}
}

func (c *cluster) replicate(rc *corev1.ReplicationController) *corev1.ReplicationController {
	c.t.Helper()
	rc, err := c.admin.CoreV1().ReplicationControllers(rc.Namespace).Create(c.ctx, rc, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return rc
}

// scaleReplication is kubectl scale.
func (c *cluster) scaleReplication(name string, replicas int32) {
	c.t.Helper()
	scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}
	if _, err := c.admin.CoreV1().ReplicationControllers("default").UpdateScale(c.ctx, name, scale, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// replicated waits until the status says that all replicas are available.
func (c *cluster) replicated(name string, replicas int32) *corev1.ReplicationController {
	c.t.Helper()
	var rc *corev1.ReplicationController
	c.eventually(fmt.Sprintf("%d replicas of %s", replicas, name), func() string {
		var err error
		if rc, err = c.admin.CoreV1().ReplicationControllers("default").Get(c.ctx, name, metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		s := rc.Status
		if s.ObservedGeneration == rc.Generation && s.Replicas == replicas && s.FullyLabeledReplicas == replicas &&
			s.ReadyReplicas == replicas && s.AvailableReplicas == replicas && len(s.Conditions) == 0 {
			return ""
		}
		return fmt.Sprintf("generation %d, %+v", rc.Generation, s)
	})
	return rc
}

// podsSeen waits until the controllers have in their cache all pods that have been made: it
// is there when a later one is.
func (c *cluster) podsSeen() {
	c.t.Helper()
	c.replicate(replication("later", 1))
	c.replicated("later", 1)
}

// TestReplicationController: adoption, status, events, scaling by deletion cost,
// release, failure, and the ways of deletion.
func TestReplicationController(t *testing.T) {
	c := start(t, "", "node-a")
	l := map[string]string{"app": "old"}
	lone, err := c.admin.CoreV1().Pods("default").Create(c.ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "lone", Labels: l}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "app:1"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.podsSeen()
	rc := c.replicate(replication("old", 3))
	c.replicated("old", 3)
	for _, p := range c.pods("app=old") {
		ref := metav1.GetControllerOf(&p)
		if ref == nil || ref.APIVersion != "v1" || ref.Kind != "ReplicationController" || ref.UID != rc.UID || !ptr.Deref(ref.BlockOwnerDeletion, false) {
			t.Errorf("pod %s has the owner %+v, want the replication controller", p.Name, ref)
		}
		if p.Name != lone.Name && !strings.HasPrefix(p.Name, "old-") {
			t.Errorf("pod %s is not named after its controller", p.Name)
		}
	}
	c.eventually("events", func() string {
		list, err := c.admin.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{
			FieldSelector: "reason=SuccessfulCreate,involvedObject.kind=ReplicationController,involvedObject.apiVersion=v1,involvedObject.name=old,source=replication-controller",
		})
		if err != nil || len(list.Items) != 2 {
			return fmt.Sprint(len(list.Items), " events ", err)
		}
		return ""
	})

	// Of two to go, those go that cost least; the one that was adopted costs most.
	for _, p := range c.pods("app=old") {
		cost := "-5"
		if p.Name == lone.Name {
			cost = "5"
		}
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, corev1.PodDeletionCost, cost)
		if _, err := c.admin.CoreV1().Pods("default").Patch(c.ctx, p.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c.costsSeen(rc)
	c.scaleReplication("old", 1)
	c.replicated("old", 1)
	c.eventually("the cheap pods are gone", func() string {
		if pods := c.pods("app=old"); len(pods) != 1 || pods[0].Name != lone.Name {
			return fmt.Sprint(len(pods), " pods, the first is ", pods[0].Name)
		}
		return ""
	})

	// One that no longer matches is let go and replaced.
	if _, err := c.admin.CoreV1().Pods("default").Patch(c.ctx, lone.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"free"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("released and replaced", func() string {
		p, err := c.admin.CoreV1().Pods("default").Get(c.ctx, lone.Name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if n := len(c.pods("app=old")); len(p.OwnerReferences) > 0 || n != 1 {
			return fmt.Sprintf("owners %v, %d pods", p.OwnerReferences, n)
		}
		return ""
	})

	background := metav1.DeletePropagationBackground
	if err := c.admin.CoreV1().ReplicationControllers("default").Delete(c.ctx, "old", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	c.eventually("its pods are gone", func() string {
		if n := len(c.pods("app=old")); n > 0 {
			return fmt.Sprint(n, " pods")
		}
		return ""
	})
}

// costsSeen waits until the controller has seen what was written to the pods before: it
// makes the pod that is missing from a cache which has the annotations.
func (c *cluster) costsSeen(rc *corev1.ReplicationController) {
	c.t.Helper()
	c.scaleReplication(rc.Name, *rc.Spec.Replicas+1)
	c.replicated(rc.Name, *rc.Spec.Replicas+1)
	for _, p := range c.pods("app=" + rc.Name) {
		if p.Annotations[corev1.PodDeletionCost] == "" {
			return
		}
	}
	c.t.Fatalf("no pod of %s is new", rc.Name)
}

// TestReplicationControllerFails: what it may not make is a condition, and an orphaning
// deletion leaves the pods.
func TestReplicationControllerFails(t *testing.T) {
	c := start(t, "", "node-a")
	quota, err := c.admin.CoreV1().ResourceQuotas("default").Create(c.ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "two"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2")}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.eventually("the quota is in force", func() string {
		q, err := c.admin.CoreV1().ResourceQuotas("default").Get(c.ctx, quota.Name, metav1.GetOptions{})
		if err != nil || len(q.Status.Hard) == 0 {
			return fmt.Sprint("not yet ", err)
		}
		return ""
	})
	c.replicate(replication("much", 3))
	c.eventually("ReplicaFailure", func() string {
		rc, err := c.admin.CoreV1().ReplicationControllers("default").Get(c.ctx, "much", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, cond := range rc.Status.Conditions {
			if cond.Type == corev1.ReplicationControllerReplicaFailure && cond.Status == corev1.ConditionTrue && cond.Reason == "FailedCreate" &&
				strings.Contains(cond.Message, "exceeded quota: two") {
				return ""
			}
		}
		return fmt.Sprintf("%+v", rc.Status)
	})
	c.scaleReplication("much", 2)
	c.replicated("much", 2) // and the condition is gone

	orphan := metav1.DeletePropagationOrphan
	if err := c.admin.CoreV1().ReplicationControllers("default").Delete(c.ctx, "much", metav1.DeleteOptions{PropagationPolicy: &orphan}); err != nil {
		t.Fatal(err)
	}
	c.eventually("orphaned", func() string {
		list, err := c.admin.CoreV1().ReplicationControllers("default").List(c.ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) > 0 {
			return fmt.Sprint("it is there ", err)
		}
		for _, p := range c.pods("app=much") {
			if len(p.OwnerReferences) > 0 {
				return "a pod has its owner still"
			}
		}
		return ""
	})
	if n := len(c.pods("app=much")); n != 2 {
		t.Errorf("%d pods after orphaning deletion, want 2", n)
	}
}
