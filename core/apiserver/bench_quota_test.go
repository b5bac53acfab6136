package apiserver

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLimits measures what quotas and a LimitRange add to the creation of a pod: CPU time of client and server.
func BenchmarkLimits(b *testing.B) {
	h := start(b)
	admin := protobuf(b, h)
	ctx, core := b.Context(), admin.CoreV1()
	must := func(_ any, err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		quotas int
		limits bool
	}{{"none", 0, false}, {"limit-range", 0, true}, {"quotas-1", 1, false}, {"quotas-10", 10, false}} {
		must(core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tt.name}}, metav1.CreateOptions{}))
		must(core.ServiceAccounts(tt.name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
		list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m"), corev1.ResourceMemory: resource.MustParse("1Mi")}
		if tt.limits {
			must(core.LimitRanges(tt.name).Create(ctx, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: corev1.LimitRangeSpec{
				Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Default: list, DefaultRequest: list}}}}, metav1.CreateOptions{}))
		}
		for i := range tt.quotas {
			hard := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1M"), corev1.ResourceRequestsCPU: resource.MustParse("1M"), corev1.ResourceRequestsMemory: resource.MustParse("1P")}
			q, err := core.ResourceQuotas(tt.name).Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("q%d", i)},
				Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
			must(q, err)
			q.Status.Hard, q.Status.Used = hard, corev1.ResourceList{} // as the controller does
			for name := range hard {
				q.Status.Used[name] = resource.MustParse("0")
			}
			must(core.ResourceQuotas(tt.name).UpdateStatus(ctx, q, metav1.UpdateOptions{}))
		}
		n := 0
		b.Run(tt.name, func(b *testing.B) {
			began := cpu(b)
			for b.Loop() {
				n++
				p := benchPod(fmt.Sprintf("p%d", n))
				p.Spec.Containers[0].Resources.Requests = list
				if _, err := core.Pods(tt.name).Create(ctx, p, metav1.CreateOptions{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}
