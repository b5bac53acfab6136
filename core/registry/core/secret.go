package core

import (
	"context"
	"crypto/tls"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"

	"keelson.dev/keelson/core/registry/resource"
)

var secrets = &resource.Definition[*corev1.Secret]{
	GroupVersion: version, Kind: "Secret", Plural: "secrets", Singular: "secret",
	New:            func() *corev1.Secret { return &corev1.Secret{} },
	NewList:        func() runtime.Object { return &corev1.SecretList{} },
	Default:        defaultSecret,
	PrepareUpdate:  func(_ context.Context, s, old *corev1.Secret) { keepSecretType(s, old) },
	Validate:       validateSecret,
	Warnings:       keyWarnings,
	ValidateUpdate: validateSecretUpdate,
	Labels:         []string{"type"},
	Wrap:           func(env *resource.Env, s *resource.Store) rest.Storage { return &secretREST{s, env} },
	Fields:         func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Type", "string", "Used to facilitate programmatic handling of secret data."),
		resource.Column("Data", "string", "The number of keys."),
		resource.AgeColumn,
	},
	Row: func(s *corev1.Secret) []any {
		return []any{s.Name, string(s.Type), int64(len(s.Data)), resource.Age(s)}
	},
}

// defaultSecret moves stringData, which is for writing only, to data.
func defaultSecret(s *corev1.Secret) {
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	if len(s.StringData) > 0 {
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		for k, v := range s.StringData {
			s.Data[k] = []byte(v)
		}
	}
	s.StringData = nil
}

func keepSecretType(s, old *corev1.Secret) {
	if s.Type == "" {
		s.Type = old.Type
	}
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	data := field.NewPath("data")
	var errs field.ErrorList
	size := 0
	for key, value := range s.Data {
		for _, msg := range validation.IsConfigMapKey(key) {
			errs = append(errs, field.Invalid(data.Key(key), key, msg))
		}
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(data, "", corev1.MaxSecretSize))
	}
	need := func(key string) {
		if _, ok := s.Data[key]; !ok {
			errs = append(errs, field.Required(data.Key(key), ""))
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg, corev1.SecretTypeDockerConfigJson:
		key := corev1.DockerConfigKey
		if s.Type == corev1.SecretTypeDockerConfigJson {
			key = corev1.DockerConfigJsonKey
		}
		need(key)
		if value, ok := s.Data[key]; ok {
			if err := json.Unmarshal(value, &map[string]any{}); err != nil {
				errs = append(errs, field.Invalid(data.Key(key), "<secret contents redacted>", err.Error()))
			}
		}
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			errs = append(errs, field.Required(data.Key(corev1.BasicAuthUsernameKey), ""), field.Required(data.Key(corev1.BasicAuthPasswordKey), ""))
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(data.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		need(corev1.TLSCertKey)
		need(corev1.TLSPrivateKeyKey)
	}
	return errs
}

// keyWarnings tells of a certificate and a key that do not belong together.
func keyWarnings(s *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := apivalidation.ValidateImmutableField(s.Type, old.Type, field.NewPath("type"))
	if old.Immutable == nil || !*old.Immutable {
		return errs
	}
	if s.Immutable == nil || !*s.Immutable {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
	}
	if !apiequality.Semantic.DeepEqual(s.Data, old.Data) {
		errs = append(errs, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
	}
	return errs
}

// secretFiller puts the token into a secret of type
// kubernetes.io/service-account-token.
type secretFiller interface {
	FillSecret(ctx context.Context, s *corev1.Secret) error
}

// secretREST fills in secrets that hold tokens of service accounts.
type secretREST struct {
	*resource.Store
	env *resource.Env
}

// Create implements rest.Creater.
func (r *secretREST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	s, ok := obj.(*corev1.Secret)
	filler, can := r.env.Tokens.(secretFiller)
	if ok && can && s.Type == corev1.SecretTypeServiceAccountToken {
		if s.Name == "" && s.GenerateName != "" { // the token says it
			s.Name = names.SimpleNameGenerator.GenerateName(s.GenerateName)
		}
		s.Namespace = genericapirequest.NamespaceValue(ctx)
		if err := filler.FillSecret(ctx, s); err != nil {
			return nil, err
		}
	}
	return r.Store.Create(ctx, obj, validate, options)
}
