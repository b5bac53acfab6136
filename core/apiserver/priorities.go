package apiserver

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/registry/scheduling"
)

// ensurePriorityClasses writes the classes that every cluster has. Their values
// cannot be changed, so one that is there is right.
func (s *Server) ensurePriorityClasses(ctx context.Context) error {
	classes := s.client.SchedulingV1().PriorityClasses()
	for _, class := range scheduling.SystemClasses() {
		_, err := classes.Get(ctx, class.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = classes.Create(ctx, class, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("ensure priority class %s: %w", class.Name, err)
		}
	}
	return nil
}

// isSystemClass says whether the class of that name has to be there.
func isSystemClass(name string) bool {
	for _, class := range scheduling.SystemClasses() {
		if class.Name == name {
			return true
		}
	}
	return false
}
