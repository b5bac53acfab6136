package endpoints

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/plugins/controllers/internal/control"
	"keelson.dev/keelson/plugins/kit/kittest"
)

// A slice that somebody has changed since it was read is read again. Only what
// the reader of a service's events can act on is told there.
func TestSyncMeetsAnError(t *testing.T) {
	tests := []struct {
		name  string
		err   error
		again bool // after a moment, and without an event
	}{
		{"a newer slice", apierrors.NewConflict(discoveryv1.Resource("endpointslices"), "web", errors.New("changed")), true},
		{"no rights", apierrors.NewForbidden(discoveryv1.Resource("endpointslices"), "web", errors.New("no")), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client := kittest.Clientset()
			client.PrependReactor("create", "endpointslices", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, tt.err })
			factory := informers.NewSharedInformerFactory(client, 0)
			s, err := NewSlices(&control.Context{
				Client: client, Informers: factory, Log: slog.New(slog.DiscardHandler), Metrics: &control.Metrics{}, Broadcaster: record.NewBroadcaster(),
			})
			if err != nil {
				t.Fatal(err)
			}
			events := record.NewFakeRecorder(10)
			s.events = events
			svc := &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
				Spec: corev1.ServiceSpec{
					Selector: map[string]string{"app": "web"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, ClusterIP: "10.96.0.9",
					Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
				},
			}
			if err := factory.Core().V1().Services().Informer().GetStore().Add(svc); err != nil {
				t.Fatal(err)
			}
			err = s.sync(t.Context(), "default/web")
			var again *control.RetryAfter
			if err == nil || errors.As(err, &again) != tt.again {
				t.Errorf("sync: %v, want a quiet retry: %v", err, tt.again)
			}
			event := ""
			select {
			case event = <-events.Events:
			default:
			}
			if strings.Contains(event, "FailedToUpdateEndpointSlices") == tt.again {
				t.Errorf("event %q, want one: %v", event, !tt.again)
			}
		})
	}
}
