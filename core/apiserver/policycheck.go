package apiserver

import (
	"context"
	"fmt"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	applyv1 "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"keelson.dev/keelson/core/registry/openapi"
)

// policyStatusManager is the name under which upstream's controller writes.
const policyStatusManager = "validatingadmissionpolicy-status"

// policyChecker checks the expressions of validating policies against the
// schemas of what they match, and says in the status what it found. Upstream
// does so in its controller manager; it is here as the schemas and the compiler
// are. Its zero value is ready.
type policyChecker struct{ once sync.Once }

// run checks policies until ctx ends.
func (c *policyChecker) run(ctx context.Context, s *Server) {
	queue := workqueue.NewTypedRateLimitingQueueWithConfig(workqueue.DefaultTypedControllerRateLimiter[string](),
		workqueue.TypedRateLimitingQueueConfig[string]{Name: policyStatusManager})
	policies := s.factory.Admissionregistration().V1().ValidatingAdmissionPolicies()
	add := func(obj any) {
		if p, ok := obj.(*admissionregistrationv1.ValidatingAdmissionPolicy); ok && p.Status.ObservedGeneration < p.Generation {
			queue.Add(p.Name)
		}
	}
	handle, err := policies.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) },
	})
	if err != nil {
		s.config.Log.Error("Policies are not type checked", "err", err)
		return
	}
	defer func() { _ = policies.Informer().RemoveEventHandler(handle) }() // it fails when the informer has ended, too
	s.factory.Start(ctx.Done())
	var wg sync.WaitGroup
	wg.Go(func() { <-ctx.Done(); queue.ShutDown() })
	defer wg.Wait()
	for {
		name, ended := queue.Get()
		if ended {
			return
		}
		err := c.check(ctx, s, name)
		queue.Done(name)
		if err == nil || ctx.Err() != nil {
			queue.Forget(name)
			continue
		}
		s.config.Log.Warn("Policy is not type checked yet", "policy", name, "err", err)
		queue.AddRateLimited(name)
	}
}

// check writes the status of one policy.
func (c *policyChecker) check(ctx context.Context, s *Server, name string) error {
	client := s.client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	p, err := s.factory.Admissionregistration().V1().ValidatingAdmissionPolicies().Lister().Get(name)
	if apierrors.IsNotFound(err) || err == nil && p.Status.ObservedGeneration >= p.Generation {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get policy %s: %w", name, err)
	}
	// The definitions are built for each check, and dropped: policies are
	// written seldom, and all schemas take tens of megabytes.
	schemas := resolver.NewDefinitionsSchemaResolver(openapi.Definitions, published()).
		Combine(&resolver.ClientDiscoveryResolver{Discovery: s.client.Discovery()})
	checker := &validating.TypeChecker{SchemaResolver: schemas, RestMapper: s.mapper}
	checked := applyv1.TypeChecking()
	for _, w := range checker.Check(p) {
		checked.WithExpressionWarnings(applyv1.ExpressionWarning().WithFieldRef(w.FieldRef).WithWarning(w.Warning))
	}
	_, err = client.ApplyStatus(ctx, applyv1.ValidatingAdmissionPolicy(name).WithStatus(applyv1.ValidatingAdmissionPolicyStatus().
		WithObservedGeneration(p.Generation).WithTypeChecking(checked)), metav1.ApplyOptions{FieldManager: policyStatusManager, Force: true})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status of policy %s: %w", name, err)
	}
	return nil
}
