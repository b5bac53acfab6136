package keelson

import (
	"context"
	"errors"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/resource"
	keelsonv1alpha1 "keelson.dev/keelson/proto/api/v1alpha1"
)

// existing refuses plugins that there are not, and servers without a plugin host.
func existing(ctx context.Context, env *resource.Env, s *resource.Store, name string) error {
	if _, err := s.Get(ctx, name, &metav1.GetOptions{}); err != nil {
		return err
	}
	if env.Plugins == nil {
		return apierrors.NewServiceUnavailable("this server has no plugin host")
	}
	return nil
}

// logREST streams a plugin's log.
type logREST struct {
	env   *resource.Env
	store *resource.Store
}

var (
	_ rest.GetterWithOptions = (*logREST)(nil)
	_ rest.StorageMetadata   = (*logREST)(nil)
)

// New implements rest.Storage.
func (r *logREST) New() runtime.Object { return &keelsonv1alpha1.Plugin{} }

// Destroy implements rest.Storage; the storage belongs to plugins.
func (r *logREST) Destroy() {}

// ProducesMIMETypes implements rest.StorageMetadata.
func (r *logREST) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

// ProducesObject implements rest.StorageMetadata.
func (r *logREST) ProducesObject(string) any { return "" }

// NewGetOptions implements rest.GetterWithOptions.
func (r *logREST) NewGetOptions() (runtime.Object, bool, string) {
	return &keelsonv1alpha1.PluginLogOptions{}, false, ""
}

// Get implements rest.GetterWithOptions.
func (r *logREST) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	o := options.(*keelsonv1alpha1.PluginLogOptions)
	if o.TailLines != nil && *o.TailLines < 0 {
		return nil, apierrors.NewBadRequest("tailLines must be greater than or equal to 0")
	}
	if err := existing(ctx, r.env, r.store, name); err != nil {
		return nil, err
	}
	return &stream{plugins: r.env.Plugins, name: name, options: o}, nil
}

// stream is a log that is opened when it is sent.
type stream struct {
	plugins resource.PluginOperator
	name    string
	options *keelsonv1alpha1.PluginLogOptions
}

var _ rest.ResourceStreamer = (*stream)(nil)

// GetObjectKind implements runtime.Object.
func (s *stream) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object; streams are never copied.
func (s *stream) DeepCopyObject() runtime.Object { panic("a log stream cannot be copied") }

// InputStream implements rest.ResourceStreamer.
func (s *stream) InputStream(ctx context.Context, _, _ string) (io.ReadCloser, bool, string, error) {
	tail := int64(-1)
	if s.options.TailLines != nil {
		tail = *s.options.TailLines
	}
	r, err := s.plugins.Logs(ctx, s.name, s.options.Node, tail, s.options.Follow)
	if err != nil {
		return nil, false, "", answer("open log of", s.name, err)
	}
	return r, s.options.Follow, "text/plain", nil
}

// actionREST does something to a plugin when its subresource is created.
type actionREST struct {
	env   *resource.Env
	store *resource.Store
	body  func() runtime.Object
	// do does it, or with dry only says whether it would.
	do func(ctx context.Context, plugins resource.PluginOperator, name string, body runtime.Object, dry bool) error
}

var _ rest.NamedCreater = (*actionREST)(nil)

// New implements rest.Storage.
func (r *actionREST) New() runtime.Object { return r.body() }

// Destroy implements rest.Storage; the storage belongs to plugins.
func (r *actionREST) Destroy() {}

// Create implements rest.NamedCreater.
func (r *actionREST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	if err := existing(ctx, r.env, r.store, name); err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := r.do(ctx, r.env.Plugins, name, obj, len(options.DryRun) > 0); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess, Code: 201}, nil
}

// newRestart starts a plugin's process anew.
func newRestart(env *resource.Env, store *resource.Store) *actionREST {
	return &actionREST{
		env: env, store: store, body: func() runtime.Object { return &keelsonv1alpha1.PluginRestart{} },
		do: func(ctx context.Context, plugins resource.PluginOperator, name string, body runtime.Object, dry bool) error {
			if dry {
				return nil
			}
			return answer("restart", name, plugins.Restart(ctx, name, body.(*keelsonv1alpha1.PluginRestart).Node))
		},
	}
}

// newSwap asks for a swap.
func newSwap(env *resource.Env, store *resource.Store) *actionREST {
	return &actionREST{
		env: env, store: store, body: func() runtime.Object { return &keelsonv1alpha1.PluginSwap{} },
		do: func(ctx context.Context, plugins resource.PluginOperator, name string, body runtime.Object, dry bool) error {
			swap := body.(*keelsonv1alpha1.PluginSwap)
			if !swap.Again {
				return apierrors.NewBadRequest("again: must be true: change the plugin's spec to swap it for something else")
			}
			if dry {
				return nil
			}
			return answer("swap", name, plugins.SwapAgain(ctx, name, swap.Node))
		},
	}
}

// answer is an error as the API answers with it; nil is nil.
func answer(verb, name string, err error) error {
	if err == nil {
		return nil
	}
	if status, ok := errors.AsType[*apierrors.StatusError](err); ok {
		return status
	}
	return apierrors.NewInternalError(fmt.Errorf("%s plugin %s: %w", verb, name, err))
}

// comparisonREST shows where a shadow decides otherwise.
type comparisonREST struct {
	env   *resource.Env
	store *resource.Store
}

var _ rest.Getter = (*comparisonREST)(nil)

// New implements rest.Storage.
func (r *comparisonREST) New() runtime.Object { return &keelsonv1alpha1.PluginComparison{} }

// Destroy implements rest.Storage.
func (r *comparisonREST) Destroy() {}

// Get implements rest.Getter.
func (r *comparisonREST) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if err := existing(ctx, r.env, r.store, name); err != nil {
		return nil, err
	}
	return r.env.Plugins.Comparison(ctx, name)
}
