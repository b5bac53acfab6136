package core

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"

	"keelson.dev/keelson/core/registry/resource"
)

// portRangeName is the one object that says which node ports are taken.
const portRangeName = "servicenodeports"

// rangeAllocations holds what is allocated from ranges. It is stored, not served.
var rangeAllocations = &resource.Definition[*corev1.RangeAllocation]{
	GroupVersion: version, Kind: "RangeAllocation", Plural: "rangeallocations", Singular: "rangeallocation",
	ClusterScoped: true, Internal: true,
	New:     func() *corev1.RangeAllocation { return &corev1.RangeAllocation{} },
	NewList: func() runtime.Object { return &corev1.List{} },
}

// portRange hands out node ports. Port NodePortMin+i is bit i of the stored
// data, read as one big-endian number, as upstream's allocator has it.
type portRange struct{ env *resource.Env }

// update changes the stored bits by compare and swap: change may run several times.
func (r *portRange) update(ctx context.Context, change func(bits []byte) error) error {
	store := r.env.Store("", "rangeallocations")
	ctx = clusterWide(ctx)
	key, err := store.KeyFunc(ctx, portRangeName)
	if err != nil {
		return err
	}
	wanted := fmt.Sprintf("%d-%d", r.env.NodePortMin, r.env.NodePortMax)
	return store.Storage.GuaranteedUpdate(ctx, key, &corev1.RangeAllocation{}, true, nil,
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			a := obj.(*corev1.RangeAllocation).DeepCopy()
			a.Name = portRangeName
			if a.UID == "" {
				rest.FillObjectMetaSystemFields(a)
			}
			if a.Range != wanted { // another range than last time: repair sets the bits anew
				a.Range, a.Data = wanted, nil
			}
			size := (r.env.NodePortMax-r.env.NodePortMin)/8 + 1
			bits := make([]byte, size)
			if len(a.Data) <= size { // leading zeros may have been left out
				copy(bits[size-len(a.Data):], a.Data)
			}
			if err := change(bits); err != nil {
				return nil, err
			}
			a.Data = bits
			return a, nil
		}), false, nil)
}

func (r *portRange) inRange(port int32) bool {
	return int(port) >= r.env.NodePortMin && int(port) <= r.env.NodePortMax
}

func (r *portRange) bit(port int32) (index int, mask byte) {
	i, last := int(port)-r.env.NodePortMin, (r.env.NodePortMax-r.env.NodePortMin)/8
	return last - i/8, 1 << (i % 8)
}

func (r *portRange) take(bits []byte, port int32) bool {
	i, mask := r.bit(port)
	if bits[i]&mask != 0 {
		return false
	}
	bits[i] |= mask
	return true
}

// takeAny takes a free port, 0 if there is none: of those that people do not choose, beginning anywhere, and only then
// of the others.
func (r *portRange) takeAny(bits []byte) int32 {
	n := r.env.NodePortMax - r.env.NodePortMin + 1
	low := chosenPorts(n)
	for i, start := 0, rand.IntN(n-low); i < n-low; i++ {
		if port := int32(r.env.NodePortMin + low + (start+i)%(n-low)); r.take(bits, port) {
			return port
		}
	}
	for i := range low {
		if port := int32(r.env.NodePortMin + i); r.take(bits, port) {
			return port
		}
	}
	return 0
}

// chosenPorts is how many ports at the beginning of a range of n are left to those who choose one (KEP-3668).
func chosenPorts(n int) int {
	const least, most = 16, 128
	if n <= least {
		return 0
	}
	return min(max(n/32, least), most)
}

// errDry ends an update that is not to be stored.
type errDry struct{}

func (errDry) Error() string { return "dry run" }

// claim claims the node ports that the service asks for and those that it
// needs, and gives what was claimed.
func (r *portRange) claim(ctx context.Context, s, old *corev1.Service, dry bool) ([]int32, error) {
	var had []int32
	if old != nil {
		had = nodePorts(old)
	}
	if !needsPorts(s, had) {
		return nil, nil
	}
	var claimed []int32
	var ports []corev1.ServicePort
	var health int32
	err := r.update(ctx, func(bits []byte) error {
		claimed, ports, health = nil, slices.Clone(s.Spec.Ports), s.Spec.HealthCheckNodePort
		if err := r.takeWanted(bits, s, had, &claimed); err != nil {
			return err
		}
		if err := r.takeNeeded(bits, s, ports, &health, &claimed); err != nil {
			return err
		}
		if dry {
			return errDry{}
		}
		return nil
	})
	if errors.Is(err, errDry{}) {
		claimed, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	s.Spec.Ports, s.Spec.HealthCheckNodePort = ports, health
	return claimed, nil
}

// needsPorts says whether the service has or wants a node port that it had not before.
func needsPorts(s *corev1.Service, had []int32) bool {
	if !exposed(s) {
		return false
	}
	for _, p := range nodePorts(s) {
		if !slices.Contains(had, p) {
			return true
		}
	}
	if wantsHealthPort(s) && s.Spec.HealthCheckNodePort == 0 {
		return true
	}
	return allocates(s) && slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort == 0 })
}

// allocates says whether each port of the service gets a node port.
func allocates(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort ||
		(s.Spec.Type == corev1.ServiceTypeLoadBalancer && (s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts))
}

// takeWanted takes the ports that are asked for.
func (r *portRange) takeWanted(bits []byte, s *corev1.Service, had []int32, claimed *[]int32) error {
	taken := map[corev1.ServicePort]bool{} // number and protocol
	one := func(port int32, protocol corev1.Protocol, at *field.Path) error {
		if port == 0 || slices.Contains(had, port) {
			return nil
		}
		key := corev1.ServicePort{NodePort: port, Protocol: protocol}
		if slices.Contains(*claimed, port) && !taken[key] { // protocols may share a number within a service
			taken[key] = true
			return nil
		}
		taken[key] = true
		if !r.inRange(port) {
			return invalidService(s, field.ErrorList{field.Invalid(at, port,
				fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", r.env.NodePortMin, r.env.NodePortMax))})
		}
		if !r.take(bits, port) {
			return invalidService(s, field.ErrorList{field.Invalid(at, port, "provided port is already allocated")})
		}
		*claimed = append(*claimed, port)
		return nil
	}
	for i, p := range s.Spec.Ports {
		if err := one(p.NodePort, p.Protocol, field.NewPath("spec", "ports").Index(i).Child("nodePort")); err != nil {
			return err
		}
	}
	return one(s.Spec.HealthCheckNodePort, corev1.ProtocolTCP, field.NewPath("spec", "healthCheckNodePort"))
}

// takeNeeded takes a port for each that has none yet. The same number under
// another protocol gets the same node port.
func (r *portRange) takeNeeded(bits []byte, s *corev1.Service, ports []corev1.ServicePort, health *int32, claimed *[]int32) error {
	full := func() error {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: range %s is full",
			strconv.Itoa(r.env.NodePortMin)+"-"+strconv.Itoa(r.env.NodePortMax)))
	}
	for i := range ports {
		if !allocates(s) || ports[i].NodePort != 0 {
			continue
		}
		for j := range ports {
			if j != i && ports[j].Port == ports[i].Port && ports[j].Protocol != ports[i].Protocol && ports[j].NodePort != 0 {
				ports[i].NodePort = ports[j].NodePort
			}
		}
		if ports[i].NodePort != 0 {
			continue
		}
		port := r.takeAny(bits)
		if port == 0 {
			return full()
		}
		ports[i].NodePort = port
		*claimed = append(*claimed, port)
	}
	if wantsHealthPort(s) && *health == 0 {
		port := r.takeAny(bits)
		if port == 0 {
			return full()
		}
		*health = port
		*claimed = append(*claimed, port)
	}
	return nil
}

// release gives ports back; what fails is left for repair.
func (r *portRange) release(ctx context.Context, ports []int32) {
	_ = r.update(ctx, func(bits []byte) error {
		for _, p := range ports {
			if r.inRange(p) {
				i, mask := r.bit(p)
				bits[i] &^= mask
			}
		}
		return nil
	})
}

// repair takes the ports that services have, and gives back those suspects that
// no service has. It gives the new suspects: ports that no service has, but that
// may be about to be written.
func (r *portRange) repair(ctx context.Context, all []corev1.Service, suspects []byte) ([]byte, error) {
	var unowned []byte
	err := r.update(ctx, func(bits []byte) error {
		owned := make([]byte, len(bits))
		for i := range all {
			for _, p := range nodePorts(&all[i]) {
				if r.inRange(p) {
					r.take(owned, p)
				}
			}
		}
		unowned = make([]byte, len(bits))
		for i := range bits {
			if len(suspects) == len(bits) {
				bits[i] &^= suspects[i] &^ owned[i]
			}
			bits[i] |= owned[i]
			unowned[i] = bits[i] &^ owned[i]
		}
		return nil
	})
	return unowned, err
}
