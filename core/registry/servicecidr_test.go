package registry_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestServiceCIDR(t *testing.T) {
	s := start(t)
	ctx, ranges := t.Context(), s.admin.NetworkingV1().ServiceCIDRs()
	services, ips := s.admin.CoreV1().Services("default"), s.admin.NetworkingV1().IPAddresses()
	c, err := ranges.Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || !slices.Equal(c.Spec.CIDRs, []string{"10.96.0.0/12"}) || !meta.IsStatusConditionTrue(c.Status.Conditions, "Ready") {
		t.Fatalf("default range: got %+v, %v", c, err)
	}
	if a, err := ips.Get(ctx, "10.96.0.1", metav1.GetOptions{}); err != nil || a.Spec.ParentRef.Name != "kubernetes" {
		t.Errorf("address of the first service: got %+v, %v", a, err)
	}
	wanted := func(name, ip string) error {
		svc := service(name, corev1.ServiceTypeClusterIP)
		svc.Spec.ClusterIP = ip
		_, err := services.Create(ctx, svc, metav1.CreateOptions{})
		return err
	}
	if err := wanted("early", "192.168.7.9"); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "not in the valid range") {
		t.Errorf("address of no range: got %v", err)
	}
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"192.168.7.0/28"}}}
	if _, err := ranges.Create(ctx, more, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := wanted("late", "192.168.7.9"); err != nil {
		t.Fatal(err)
	}
	t.Run("a range in use stays, and gives nothing out, until it is free", func(t *testing.T) {
		if err := ranges.Delete(ctx, "more", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c, err := ranges.Get(ctx, "more", metav1.GetOptions{})
		if err != nil || c.DeletionTimestamp == nil || !meta.IsStatusConditionFalse(c.Status.Conditions, "Ready") {
			t.Fatalf("got %+v, %v", c, err)
		}
		if err := wanted("too-late", "192.168.7.10"); !apierrors.IsInvalid(err) {
			t.Errorf("address of an ending range: got %v", err)
		}
		if err := services.Delete(ctx, "late", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := ranges.Get(ctx, "more", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("range without addresses: got %v, want not found", err)
		}
	})
	t.Run("an address that a service has comes back", func(t *testing.T) {
		if err := wanted("owner", "10.96.0.77"); err != nil {
			t.Fatal(err)
		}
		if err := ips.Delete(ctx, "10.96.0.77", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if a, err := ips.Get(ctx, "10.96.0.77", metav1.GetOptions{}); err != nil || a.Spec.ParentRef.Name != "owner" {
			t.Errorf("got %+v, %v", a, err)
		}
		events, err := s.admin.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "reason=ClusterIPNotAllocated"})
		if err != nil || len(events.Items) != 1 {
			t.Errorf("got %d events, %v", len(events.Items), err)
		}
	})
	t.Run("an unused range goes at once", func(t *testing.T) {
		if _, err := ranges.Create(ctx, more, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := ranges.Delete(ctx, "more", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := ranges.Get(ctx, "more", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("got %v, want not found", err)
		}
	})
}

// TestDefaultServiceCIDR deletes the range that the server was started with. It stays while it is needed; when another has
// its addresses it goes, and comes back at once.
func TestDefaultServiceCIDR(t *testing.T) {
	s := start(t)
	ctx, ranges := t.Context(), s.admin.NetworkingV1().ServiceCIDRs()
	first, err := ranges.Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := ranges.Delete(ctx, "kubernetes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := ranges.Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || c.UID != first.UID || c.DeletionTimestamp == nil || !meta.IsStatusConditionFalse(c.Status.Conditions, "Ready") {
		t.Fatalf("a range in use: got %+v, %v", c, err)
	}
	other := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: first.Spec}
	if _, err := ranges.Create(ctx, other, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Whether a range is needed is looked at when an address of any is given back.
	svc, err := s.admin.CoreV1().Services("default").Create(ctx, service("passing", corev1.ServiceTypeClusterIP), metav1.CreateOptions{})
	if err == nil {
		err = s.admin.CoreV1().Services("default").Delete(ctx, svc.Name, metav1.DeleteOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.After(2 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := ranges.Get(ctx, "kubernetes", metav1.GetOptions{})
		if err == nil && c.UID != first.UID && c.DeletionTimestamp == nil && slices.Equal(c.Spec.CIDRs, first.Spec.CIDRs) &&
			meta.IsStatusConditionTrue(c.Status.Conditions, "Ready") && slices.Equal(c.Finalizers, first.Finalizers) {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the range has not come back: %+v, %v", c, err)
		}
	}
	if a, err := s.admin.NetworkingV1().IPAddresses().Get(ctx, "10.96.0.1", metav1.GetOptions{}); err != nil || a.Spec.ParentRef.Name != "kubernetes" {
		t.Errorf("address of the first service: got %+v, %v", a, err)
	}
}

// TestServiceCIDRExtends fills a small range with many creates at once, and goes on in another.
func TestServiceCIDRExtends(t *testing.T) {
	s := startWith(t, netip.MustParsePrefix("10.50.0.0/27"), netip.MustParsePrefix("fd00:50::/112"))
	ctx, services := t.Context(), s.admin.CoreV1().Services("default")
	create := func(n int, family corev1.IPFamilyPolicy) (ips []string, failed int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		stamp := time.Now().UnixNano()
		for i := range n {
			wg.Go(func() {
				svc := service(fmt.Sprintf("s-%d-%d", stamp, i), corev1.ServiceTypeClusterIP)
				svc.Spec.IPFamilyPolicy = &family
				got, err := services.Create(ctx, svc, metav1.CreateOptions{})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed++
					return
				}
				ips = append(ips, got.Spec.ClusterIPs...)
			})
		}
		wg.Wait()
		return ips, failed
	}
	const free = 29 // of 32: without the network's, the broadcast's and the first service's
	ips, failed := create(64, corev1.IPFamilyPolicySingleStack)
	if unique := slices.Compact(slices.Sorted(slices.Values(ips))); len(ips) != free || len(unique) != free || failed != 64-free {
		t.Fatalf("got %d addresses, %d of them different, %d refused; want %d", len(ips), len(unique), failed, free)
	}
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.60.0.0/24"}}}
	if _, err := s.admin.NetworkingV1().ServiceCIDRs().Create(ctx, more, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ips, failed = create(20, corev1.IPFamilyPolicyRequireDualStack)
	v4, v6 := 0, 0
	for _, ip := range ips {
		if strings.HasPrefix(ip, "10.60.0.") {
			v4++
		} else if strings.HasPrefix(ip, "fd00:50::") {
			v6++
		}
	}
	if v4 != 20 || v6 != 20 || failed != 0 {
		t.Errorf("dual stack in the added range: got %d and %d addresses, %d refused", v4, v6, failed)
	}
}
