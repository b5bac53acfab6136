package proxy

import (
	"fmt"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/plugins/kit/nft"
	"keelson.dev/keelson/plugins/kit/nstest"
)

func setSysctl(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
		t.Logf("sysctl %s stays: %v", name, err)
	}
}

// thousands makes n services with two ports and three endpoints each.
func thousands(n int) map[string]*content {
	all := make(map[string]*content, n)
	for i := range n {
		name := fmt.Sprint("svc", i)
		all["default/"+name] = contentOf(name, i, 3)
	}
	return all
}

func contentOf(name string, i, endpoints int) *content {
	svc := service(name, fmt.Sprintf("10.100.%d.%d", i/250, i%250+1), func(s *corev1.Service) {
		s.ObjectMeta = metav1.ObjectMeta{Namespace: "default", Name: name}
	})
	s := slice(name)
	for e := range endpoints {
		s.Endpoints = append(s.Endpoints, ready(fmt.Sprintf("10.244.%d.%d", (i*3+e)/250, (i*3+e)%250+1)))
	}
	return newContent(servicePorts(svc, []*discoveryv1.EndpointSlice{s}, nft.IPv4, "test-node"), nil)
}

func bigTable(b *testing.B, n int) *table {
	b.Helper()
	nstest.Require(b)
	t := newTable(nft.IPv4, 1<<14, nil, nil)
	start := time.Now()
	if err := t.replace(thousands(n)); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d services written in %s", n, time.Since(start))
	b.Cleanup(func() { _ = deleteTables() })
	return t
}

func BenchmarkRootChangeAmong5000(b *testing.B) {
	t := bigTable(b, 5000)
	i := 0
	for b.Loop() {
		i++
		if sent, err := t.update(map[string]*content{"default/svc7": contentOf("svc7", 7, 3-i%2)}); err != nil || !sent {
			b.Fatal(sent, err)
		}
	}
}

func BenchmarkRootReplace5000(b *testing.B) {
	t := bigTable(b, 5000)
	all := thousands(5000)
	for b.Loop() {
		if err := t.replace(all); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRootIntactAmong5000(b *testing.B) {
	t := bigTable(b, 5000)
	for b.Loop() {
		if ok, err := t.intact(); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
