package admission

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/lru"
)

// eventLimitConfig is eventratelimit.admission.k8s.io/v1alpha1 Configuration.
type eventLimitConfig struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Limits     []eventLimit `json:"limits"`
}

// eventLimit is a bucket for each key: the whole server, a namespace, a user,
// or a source with its object.
type eventLimit struct {
	Type  string `json:"type"`
	QPS   int32  `json:"qps"`
	Burst int32  `json:"burst"`
	// CacheSize is how many keys are remembered. Default 4096.
	CacheSize int32 `json:"cacheSize,omitempty"`

	mu      sync.Mutex
	buckets *lru.Cache // guarded by mu
}

const defaultEventKeys = 4096

var eventLimitTypes = []string{"Server", "Namespace", "User", "SourceAndObject"}

// eventRateLimit refuses events that come too fast.
type eventRateLimit struct {
	*admission.Handler
	config eventLimitConfig
}

var _ admission.ValidationInterface = (*eventRateLimit)(nil)

func newEventRateLimit(config io.Reader) (admission.Interface, error) {
	p := &eventRateLimit{Handler: admission.NewHandler(admission.Create, admission.Update)}
	if err := readConfig(config, EventRateLimitName, "eventratelimit.admission.k8s.io/v1alpha1", &p.config, &p.config.APIVersion, &p.config.Kind); err != nil {
		return nil, err
	}
	var errs field.ErrorList
	at := field.NewPath("limits")
	if len(p.config.Limits) == 0 {
		errs = append(errs, field.Invalid(at, []string{}, "cannot be empty"))
	}
	for i := range p.config.Limits {
		l := &p.config.Limits[i]
		errs = append(errs, l.validate(at.Index(i))...)
		if l.CacheSize == 0 {
			l.CacheSize = defaultEventKeys
		}
		l.buckets = lru.New(int(l.CacheSize))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("configuration of %s: %w", EventRateLimitName, errs.ToAggregate())
	}
	return p, nil
}

func (l *eventLimit) validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	known := false
	for _, t := range eventLimitTypes {
		known = known || t == l.Type
	}
	if !known {
		errs = append(errs, field.NotSupported(at.Child("type"), l.Type, eventLimitTypes))
	}
	if l.QPS <= 0 {
		errs = append(errs, field.Invalid(at.Child("qps"), l.QPS, "must be positive"))
	}
	if l.Burst <= 0 {
		errs = append(errs, field.Invalid(at.Child("burst"), l.Burst, "must be positive"))
	}
	if l.CacheSize < 0 {
		errs = append(errs, field.Invalid(at.Child("cacheSize"), l.CacheSize, "must not be negative"))
	}
	return errs
}

// Validate implements admission.ValidationInterface.
func (p *eventRateLimit) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	source, ok := eventSource(a)
	if !ok || a.IsDryRun() {
		return nil
	}
	var errs []error
	for i := range p.config.Limits { // each bucket is asked, also when another is empty
		l := &p.config.Limits[i]
		key := ""
		switch l.Type {
		case "Namespace":
			key = a.GetNamespace()
		case "User":
			if u := a.GetUserInfo(); u != nil {
				key = u.GetName()
			}
		case "SourceAndObject":
			key = source
		}
		if !l.take(key) {
			errs = append(errs, fmt.Errorf("limit reached on type %v for key %v", l.Type, key))
		}
	}
	if len(errs) > 0 {
		return apierrors.NewTooManyRequestsError(utilerrors.NewAggregate(errs).Error())
	}
	return nil
}

func (l *eventLimit) take(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket, ok := l.buckets.Get(key)
	if !ok {
		bucket = flowcontrol.NewTokenBucketRateLimiter(float32(l.QPS), int(l.Burst))
		l.buckets.Add(key, bucket)
	}
	return bucket.(flowcontrol.RateLimiter).TryAccept()
}

// eventSource names who reports about what; false if the request is on no event.
func eventSource(a admission.Attributes) (string, bool) {
	if a.GetSubresource() != "" {
		return "", false
	}
	var ref corev1.ObjectReference
	var component, host string
	switch e := a.GetObject().(type) {
	case *corev1.Event:
		ref, component, host = e.InvolvedObject, e.Source.Component, e.Source.Host
	case *eventsv1.Event:
		ref, component, host = e.Regarding, e.ReportingController, e.ReportingInstance
	default:
		return "", false
	}
	return strings.Join([]string{component, host, ref.Kind, ref.Namespace, ref.Name, string(ref.UID), ref.APIVersion}, ""), true
}
