package scheduling

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/test/harness"
)

const driver = "gpu.example.com"

// slice offers devices of a node.
func (c *cluster) slice(node string, models ...string) {
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: resourcev1.ResourceSliceSpec{
		Driver: driver, NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, ResourceSliceCount: 1},
	}}
	for i, m := range models {
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: fmt.Sprint("gpu-", i), Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"model": {StringValue: new(m)}}})
	}
	_, err := c.admin.ResourceV1().ResourceSlices().Create(c.ctx, s, metav1.CreateOptions{})
	c.must(err)
}

func (c *cluster) devices(name, class, model string) {
	r := resourcev1.DeviceRequest{Name: "gpu", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class}}
	if model != "" {
		r.Exactly.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: fmt.Sprintf("device.attributes[%q].model == %q", driver, model)}}}
	}
	_, err := c.admin.ResourceV1().ResourceClaims("default").Create(c.ctx, &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{r}}},
	}, metav1.CreateOptions{})
	c.must(err)
}

func using(claim string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: &claim}}
		p.Spec.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "gpu"}}
	}
}

// TestDevices: pods get the devices that their claims ask for, each device once.
func TestDevices(t *testing.T) {
	c := start(t, map[string]string{"a": "east", "b": "west"})
	c.pod("early", nil, using("early"))
	c.pending("early", `resourceclaim "early" not found`)
	c.devices("early", "gpu", "large")
	c.pending("early", "device class gpu does not exist")
	_, err := c.admin.ResourceV1().DeviceClasses().Create(c.ctx, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{
		Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.driver == "` + driver + `"`}}},
	}}, metav1.CreateOptions{})
	c.must(err)
	c.pending("early", "2 cannot allocate all claims")
	c.slice("a", "small", "small")
	c.slice("b", "large")
	c.on("early", "b")
	claim, err := c.admin.ResourceV1().ResourceClaims("default").Get(c.ctx, "early", metav1.GetOptions{})
	c.must(err)
	pod := c.get("early")
	a := claim.Status.Allocation
	if a == nil || len(a.Devices.Results) != 1 || a.Devices.Results[0].Pool != "b" || a.Devices.Results[0].Device != "gpu-0" {
		t.Errorf("allocation: %+v", a)
	}
	if r := claim.Status.ReservedFor; len(r) != 1 || r[0].UID != pod.UID || r[0].Resource != "pods" {
		t.Errorf("reserved for %+v", r)
	}
	if len(claim.Finalizers) != 1 || claim.Finalizers[0] != resourcev1.Finalizer {
		t.Errorf("finalizers %q", claim.Finalizers)
	}
	// A second pod with the same claim goes where its device is.
	c.pod("shares", nil, using("early"))
	c.on("shares", "b")

	// Three at once for two devices.
	for i := range 3 {
		name := fmt.Sprint("many-", i)
		c.devices(name, "gpu", "small")
		c.pod(name, nil, using(name))
	}
	harness.Eventually(t, "two of three have a device", func() string {
		n := 0
		for i := range 3 {
			if c.get(fmt.Sprint("many-", i)).Spec.NodeName == "a" {
				n++
			}
		}
		if n == 2 {
			return ""
		}
		return fmt.Sprint(n)
	})
	taken := map[string]bool{}
	free := ""
	list, err := c.admin.ResourceV1().ResourceClaims("default").List(c.ctx, metav1.ListOptions{})
	c.must(err)
	for _, claim := range list.Items {
		if claim.Status.Allocation == nil {
			free = claim.Name
			continue
		}
		for _, r := range claim.Status.Allocation.Devices.Results {
			id := r.Pool + "/" + r.Device
			if taken[id] {
				t.Errorf("device %s was given twice", id)
			}
			taken[id] = true
		}
	}
	if len(taken) != 3 || free == "" {
		t.Fatalf("given: %v, the claim without: %q", taken, free)
	}
	c.pending(free, "cannot allocate all claims")
	// A device comes free: its claim is given back, as the controller of claims does.
	for i := range 3 {
		if name := fmt.Sprint("many-", i); name != free {
			c.release(t.Context(), name)
			break
		}
	}
	c.on(free, "a")
}

// release ends a pod and takes its claim's devices back.
func (c *cluster) release(ctx context.Context, name string) {
	c.must(c.admin.CoreV1().Pods("default").Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	claim, err := c.admin.ResourceV1().ResourceClaims("default").Get(ctx, name, metav1.GetOptions{})
	c.must(err)
	claim.Status.ReservedFor, claim.Status.Allocation = nil, nil
	_, err = c.admin.ResourceV1().ResourceClaims("default").UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	c.must(err)
}
