package kernel

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// pluginEvents writes events of Plugin objects; nil writes none. They are in the namespace default, as
// those of all objects without one.
type pluginEvents struct {
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder

	mu   sync.Mutex // guards uids
	uids map[string]types.UID
}

func newPluginEvents(client typedcorev1.EventsGetter, node string) *pluginEvents {
	b := record.NewBroadcaster()
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.Events("")})
	return &pluginEvents{
		broadcaster: b, uids: map[string]types.UID{},
		recorder: b.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: "keelson-plugins", Host: node}),
	}
}

// know notes the identity of a Plugin object, which its events name.
func (e *pluginEvents) know(p *v1alpha1.Plugin) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.uids[p.Name] = p.UID
}

// record writes an event, later.
func (e *pluginEvents) record(name string, event pluginhost.Event) {
	if e == nil {
		return
	}
	e.mu.Lock()
	uid := e.uids[name]
	e.mu.Unlock()
	kind := corev1.EventTypeNormal
	if event.Warning {
		kind = corev1.EventTypeWarning
	}
	e.recorder.Event(&corev1.ObjectReference{
		APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Plugin", Name: name, UID: uid,
	}, kind, event.Reason, shortened(event.Message))
}

// stop ends the writing; what is not written yet is not.
func (e *pluginEvents) stop() { e.broadcaster.Shutdown() }
