// Package keelson describes the kind of Keelson's own group keelson.dev/v1alpha1,
// plugins. What runs behind a Plugin is the plugin host's business; it is
// reached through resource.PluginOperator.
package keelson

import (
	"context"
	"fmt"
	"io"
	"path"
	"regexp"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/resource"
	keelsonv1alpha1 "keelson.dev/keelson/proto/api/v1alpha1"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{plugins}

var version = keelsonv1alpha1.SchemeGroupVersion

var checksum = regexp.MustCompile(`^[0-9a-f]{64}$`)

var plugins = &resource.Definition[*keelsonv1alpha1.Plugin]{
	GroupVersion: version, Kind: "Plugin", Plural: "plugins", Singular: "plugin", ClusterScoped: true,
	New:     func() *keelsonv1alpha1.Plugin { return &keelsonv1alpha1.Plugin{} },
	NewList: func() runtime.Object { return &keelsonv1alpha1.PluginList{} },
	Name:    apivalidation.NameIsDNSLabel,
	Default: func(p *keelsonv1alpha1.Plugin) {
		if p.Spec.Enabled == nil {
			yes := true
			p.Spec.Enabled = &yes
		}
		if p.Spec.Source == (keelsonv1alpha1.PluginSource{}) {
			p.Spec.Source.BuiltIn = true
		}
	},
	PrepareCreate: func(_ context.Context, p *keelsonv1alpha1.Plugin) { p.Status.Phase = keelsonv1alpha1.PluginPending },
	Spec:          func(p *keelsonv1alpha1.Plugin) any { return &p.Spec },
	Status:        func(p *keelsonv1alpha1.Plugin) any { return &p.Status },
	Validate:      validate,
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Kind", "string", "The contract that it fulfils."),
		resource.Column("Status", "string", "Where it is in its life."),
		resource.Column("Version", "string", "What it says of itself."),
		resource.Column("Restarts", "integer", "How often it was started again."),
		resource.AgeColumn,
		resource.Wide("Source", "string", "Where its executable comes from."),
		resource.Wide("PID", "string", "Its process."),
		resource.Wide("Last Error", "string", "Why it ended the last time."),
	},
	Row: func(p *keelsonv1alpha1.Plugin) []any {
		source, pid := "built-in", "<none>"
		if !p.Spec.Source.BuiltIn {
			source = p.Spec.Source.Path
		}
		if p.Status.PID != 0 {
			pid = fmt.Sprint(p.Status.PID)
		}
		return []any{p.Name, p.Spec.Kind, string(p.Status.Phase), p.Status.Version, int64(p.Status.Restarts), resource.Age(p), source, pid, p.Status.LastError}
	},
	Subresources: func(env *resource.Env, s *resource.Store) map[string]rest.Storage {
		return map[string]rest.Storage{"log": &logREST{env, s}, "restart": &restartREST{env, s}}
	},
}

func validate(p *keelsonv1alpha1.Plugin) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if p.Spec.Kind == "" {
		errs = append(errs, field.Required(spec.Child("kind"), "name the contract that the plugin fulfils, such as runtime or dns"))
	} else {
		for _, msg := range apivalidation.NameIsDNSLabel(p.Spec.Kind, false) {
			errs = append(errs, field.Invalid(spec.Child("kind"), p.Spec.Kind, msg))
		}
	}
	s, at := p.Spec.Source, spec.Child("source")
	switch {
	case s.BuiltIn && s.Path != "":
		errs = append(errs, field.Invalid(at.Child("path"), s.Path, "may not be set when `builtIn` is true"))
	case s.BuiltIn && s.SHA256 != "":
		errs = append(errs, field.Invalid(at.Child("sha256"), s.SHA256, "may not be set when `builtIn` is true"))
	case !s.BuiltIn && s.Path == "":
		errs = append(errs, field.Required(at.Child("path"), "must be set when `builtIn` is false"))
	case !s.BuiltIn && (!path.IsAbs(s.Path) || path.Clean(s.Path) != s.Path):
		errs = append(errs, field.Invalid(at.Child("path"), s.Path, "must be an absolute path without . or .."))
	}
	if !s.BuiltIn && s.Path != "" && s.SHA256 == "" {
		errs = append(errs, field.Required(at.Child("sha256"), "must be set with `path`: the kernel starts no executable that it cannot check"))
	}
	if s.SHA256 != "" && !checksum.MatchString(s.SHA256) {
		errs = append(errs, field.Invalid(at.Child("sha256"), s.SHA256, "must be 64 lower case hexadecimal digits, as sha256sum prints them"))
	}
	switch p.Spec.Scope {
	case "", keelsonv1alpha1.PluginScopeCluster, keelsonv1alpha1.PluginScopeNode:
	default:
		errs = append(errs, field.NotSupported(spec.Child("scope"), p.Spec.Scope, []keelsonv1alpha1.PluginScope{keelsonv1alpha1.PluginScopeCluster, keelsonv1alpha1.PluginScopeNode}))
	}
	if c := p.Spec.Config; c != nil && len(c.Raw) > 0 {
		if err := json.Unmarshal(c.Raw, &map[string]any{}); err != nil {
			errs = append(errs, field.Invalid(spec.Child("config"), string(c.Raw), "must be an object: "+err.Error()))
		}
	}
	return errs
}

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
	r, err := s.plugins.Logs(ctx, s.name, tail, s.options.Follow)
	if err != nil {
		return nil, false, "", apierrors.NewInternalError(fmt.Errorf("open log of plugin %s: %w", s.name, err))
	}
	return r, s.options.Follow, "text/plain", nil
}

// restartREST starts a plugin's process anew.
type restartREST struct {
	env   *resource.Env
	store *resource.Store
}

var _ rest.NamedCreater = (*restartREST)(nil)

// New implements rest.Storage.
func (r *restartREST) New() runtime.Object { return &keelsonv1alpha1.PluginRestart{} }

// Destroy implements rest.Storage; the storage belongs to plugins.
func (r *restartREST) Destroy() {}

// Create implements rest.NamedCreater.
func (r *restartREST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	if err := existing(ctx, r.env, r.store, name); err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if len(options.DryRun) == 0 {
		if err := r.env.Plugins.Restart(ctx, name); err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("restart plugin %s: %w", name, err))
		}
	}
	return &metav1.Status{Status: metav1.StatusSuccess, Code: 201}, nil
}
