package apiserver

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/auth"
)

// systemNamespaces exist in every cluster.
var systemNamespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}

func (s *Server) ensureNamespaces(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, name := range systemNamespaces {
		g.Go(func() error { return s.ensureNamespace(ctx, name) })
	}
	return g.Wait()
}

func (s *Server) ensureNamespace(ctx context.Context, name string) error {
	_, err := s.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		_, err = s.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("ensure namespace %s: %w", name, err)
	}
	return nil
}

// ensureNamespaced makes the namespaces and what belongs into them.
func (s *Server) ensureNamespaced(ctx context.Context) error {
	if err := s.ensureNamespaces(ctx); err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error { return auth.BootstrapNamespaced(ctx, s.client) })
	g.Go(func() error { return s.ensureAuthentication(ctx) })
	return g.Wait()
}
