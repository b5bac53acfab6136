package binder

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-helpers/storage/volume"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// TestNeverTwoClaimsOnOneVolume: two binders that see late and die between writes,
// claims and volumes that come and go. Whatever the order, no volume has two claims
// (the world checks after each write), and in the end everything is settled.
func TestNeverTwoClaimsOnOneVolume(t *testing.T) {
	seeds := uint64(400)
	if testing.Short() {
		seeds = 40
	}
	bound := 0
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed, 2)
			for step := range 150 {
				switch i := w.random.IntN(2); w.random.IntN(6) {
				case 0:
					w.change(step)
				case 1, 2:
					if keys := w.keys(i); len(keys) > 0 {
						w.deliver(i, w.pick(keys...))
					}
				default:
					if w.random.IntN(4) == 0 {
						w.crash = 1 + w.random.IntN(4)
					}
					if keys := w.keys(i); len(keys) > 0 {
						_ = w.sync(i, w.pick(keys...)) // conflicts and crashes are what this is about
					}
					w.crash = -1
				}
				if t.Failed() {
					return
				}
			}
			w.settle()
			bound += w.settled()
		})
	}
	if bound == 0 {
		t.Error("no claim was bound in any run: the test tests nothing")
	}
}

// settle shows everything to everybody and syncs until nobody writes.
func (w *world) settle() {
	w.t.Helper()
	for range 40 {
		before := w.writes
		for i := range w.binders {
			for _, key := range w.keys(i) {
				w.deliver(i, key)
			}
			for _, key := range w.keys(i) {
				if err := w.sync(i, key); err != nil && !apierrors.IsConflict(err) {
					w.t.Fatalf("sync %s: %v", key, err)
				}
			}
		}
		if w.writes == before {
			return
		}
	}
	w.t.Fatal("the binders do not come to rest")
}

// settled checks that all is as it must be in the end, and tells how many claims are
// bound.
func (w *world) settled() (bound int) {
	w.t.Helper()
	w.check()
	for name, v := range w.volumes {
		var claim *corev1.PersistentVolumeClaim
		if ref := v.Spec.ClaimRef; ref != nil {
			if claim = w.claims[refKey(v)]; claim != nil && ref.UID != "" && claim.UID != ref.UID {
				claim = nil
			}
		}
		switch {
		case v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == "":
			w.want(name, v, corev1.VolumeAvailable)
		case claim == nil:
			if v.Status.Phase != corev1.VolumeReleased {
				w.want(name, v, corev1.VolumeFailed)
			}
		case claim.Spec.VolumeName == name:
			w.want(name, v, corev1.VolumeBound)
			if claim.Status.Phase != corev1.ClaimBound {
				w.t.Errorf("claim %s of volume %s is %s", claim.Name, name, claim.Status.Phase)
			}
			bound++
		case claim.Spec.VolumeName != "" && v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed:
			w.t.Errorf("volume %s is held for claim %s, which has volume %s", name, claim.Name, claim.Spec.VolumeName)
		}
	}
	for key, c := range w.claims {
		if c.Spec.VolumeName != "" || volume.GetPersistentVolumeClaimClass(c) == "later" {
			continue
		}
		for name, v := range w.volumes {
			if v.Spec.ClaimRef == nil && v.Status.Phase == corev1.VolumeAvailable && mismatch(v, c) == "" {
				w.t.Errorf("claim %s waits, and volume %s is free", key, name)
			}
		}
		if class := volume.GetPersistentVolumeClaimClass(c); class == "now" && c.Annotations[volume.AnnStorageProvisioner] != "disks.example.com" {
			w.t.Errorf("claim %s was not handed to the provisioner", control.Key(c))
		}
	}
	return bound
}

func (w *world) want(name string, v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase) {
	w.t.Helper()
	if v.Status.Phase != phase {
		w.t.Errorf("volume %s with claimRef %v is %s, want %s", name, v.Spec.ClaimRef, v.Status.Phase, phase)
	}
}
