package devices

import (
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSettle: what becomes of a claim when some of its users have gone.
func TestSettle(t *testing.T) {
	user := func(name string) resourcev1.ResourceClaimConsumerReference {
		return resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: name}
	}
	type users = []resourcev1.ResourceClaimConsumerReference
	for _, tt := range []struct {
		name                          string
		had, keep                     users
		finalizer, allocated, deleted bool
		changes, free, finished       bool
	}{
		{name: "nobody has it"},
		{name: "all stay", had: users{user("a")}, keep: users{user("a")}, finalizer: true, allocated: true},
		{name: "one of two goes", had: users{user("a"), user("b")}, keep: users{user("b")}, finalizer: true, allocated: true, changes: true},
		{name: "the last goes", had: users{user("a")}, finalizer: true, allocated: true, changes: true, free: true, finished: true},
		{name: "the last goes, devices are another's to give", had: users{user("a")}, allocated: true, changes: true},
		{name: "allocated and not reserved yet", finalizer: true, allocated: true},
		{name: "deleted and allocated", finalizer: true, allocated: true, deleted: true, changes: true, free: true, finished: true},
		{name: "deleted and in use", had: users{user("a")}, keep: users{user("a")}, finalizer: true, allocated: true, deleted: true},
		{name: "the scheduler is about to allocate", finalizer: true},
		{name: "deleted before it was allocated", finalizer: true, deleted: true, finished: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			claim := &resourcev1.ResourceClaim{Status: resourcev1.ResourceClaimStatus{ReservedFor: tt.had}}
			if tt.finalizer {
				claim.Finalizers = []string{resourcev1.Finalizer}
			}
			if tt.allocated {
				claim.Status.Allocation = &resourcev1.AllocationResult{}
			}
			if tt.deleted {
				claim.DeletionTimestamp = &metav1.Time{}
			}
			next := settle(claim, tt.keep)
			if (next != nil) != tt.changes {
				t.Fatalf("changes: %v, want %v", next != nil, tt.changes)
			}
			if next == nil {
				next = claim
			}
			free := claim.Status.Allocation != nil && next.Status.Allocation == nil
			if free != tt.free || len(next.Status.ReservedFor) != len(tt.keep) {
				t.Errorf("freed %v with %d users left, want %v with %d", free, len(next.Status.ReservedFor), tt.free, len(tt.keep))
			}
			if got := finished(next, free); got != tt.finished {
				t.Errorf("finished: %v, want %v", got, tt.finished)
			}
		})
	}
}
