package resource

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	keelsonv1alpha1 "keelson.dev/keelson/proto/api/v1alpha1"
)

var (
	// Scheme knows all kinds that the API server serves, in their versions and
	// again as the internal version. The registry package adds defaults to it.
	Scheme = runtime.NewScheme()
	// Codecs encode and decode the kinds of Scheme.
	Codecs = serializer.NewCodecFactory(Scheme)
	// ParameterCodec reads options from query parameters.
	ParameterCodec = runtime.NewParameterCodec(Scheme)
)

func init() {
	for _, group := range []struct {
		gv  schema.GroupVersion
		add func(*runtime.Scheme) error
	}{
		{corev1.SchemeGroupVersion, corev1.AddToScheme},
		{appsv1.SchemeGroupVersion, appsv1.AddToScheme},
		{batchv1.SchemeGroupVersion, batchv1.AddToScheme},
		{discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme},
		{coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme},
		{rbacv1.SchemeGroupVersion, rbacv1.AddToScheme},
		{policyv1.SchemeGroupVersion, policyv1.AddToScheme},
		{schedulingv1.SchemeGroupVersion, schedulingv1.AddToScheme},
		{authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme},
		{authorizationv1.SchemeGroupVersion, authorizationv1.AddToScheme},
		{networkingv1.SchemeGroupVersion, networkingv1.AddToScheme},
		{storagev1.SchemeGroupVersion, storagev1.AddToScheme},
		{nodev1.SchemeGroupVersion, nodev1.AddToScheme},
		{certificatesv1.SchemeGroupVersion, certificatesv1.AddToScheme},
		{admissionregistrationv1.SchemeGroupVersion, admissionregistrationv1.AddToScheme},
		{flowcontrolv1.SchemeGroupVersion, flowcontrolv1.AddToScheme},
		{resourcev1.SchemeGroupVersion, resourcev1.AddToScheme},
		{storagemigrationv1.SchemeGroupVersion, storagemigrationv1.AddToScheme},
		{keelsonv1alpha1.SchemeGroupVersion, keelsonv1alpha1.AddToScheme},
	} {
		utilruntime.Must(group.add(Scheme))
		registerInternal(group.gv)
		utilruntime.Must(Scheme.SetVersionPriority(group.gv))
	}
	// autoscaling has two versions: internally, autoscalers are v2's, and Scale is v1's, its only one.
	utilruntime.Must(autoscalingv2.AddToScheme(Scheme))
	utilruntime.Must(autoscalingv1.AddToScheme(Scheme))
	registerInternal(autoscalingv2.SchemeGroupVersion)
	Scheme.AddKnownTypes(schema.GroupVersion{Group: autoscalingv1.GroupName, Version: runtime.APIVersionInternal}, &autoscalingv1.Scale{})
	utilruntime.Must(Scheme.SetVersionPriority(autoscalingv2.SchemeGroupVersion, autoscalingv1.SchemeGroupVersion))
	// events.k8s.io shares its storage with the core group: internally its events are core's.
	utilruntime.Must(eventsv1.AddToScheme(Scheme))
	utilruntime.Must(Scheme.SetVersionPriority(eventsv1.SchemeGroupVersion))
	Scheme.AddKnownTypes(schema.GroupVersion{Group: eventsv1.GroupName, Version: runtime.APIVersionInternal},
		&corev1.Event{}, &corev1.EventList{})

	metav1.AddToGroupVersion(Scheme, schema.GroupVersion{Version: "v1"})
	Scheme.AddUnversionedTypes(schema.GroupVersion{Version: "v1"},
		&metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	utilruntime.Must(addParameters(Scheme))
}

// registerInternal registers the types of a version as the internal version too.
func registerInternal(gv schema.GroupVersion) {
	internal := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
	for kind, typ := range Scheme.KnownTypes(gv) {
		if strings.HasPrefix(typ.PkgPath(), "k8s.io/apimachinery/") {
			continue
		}
		obj := reflect.New(typ).Interface().(runtime.Object)
		Scheme.AddKnownTypeWithName(internal.WithKind(kind), obj)
		// What a webhook or policy made of an object is converted back to the
		// internal version, which is the same type.
		utilruntime.Must(Scheme.AddConversionFunc(obj, obj, func(in, out any, _ conversion.Scope) error {
			reflect.ValueOf(out).Elem().Set(reflect.ValueOf(in).Elem())
			return nil
		}))
	}
}

// addParameters registers how query parameters become the options of connecting subresources.
func addParameters(s *runtime.Scheme) error {
	for _, options := range []any{
		&corev1.PodLogOptions{}, &corev1.PodExecOptions{}, &corev1.PodAttachOptions{}, &corev1.PodPortForwardOptions{},
		&corev1.PodProxyOptions{}, &corev1.NodeProxyOptions{}, &corev1.ServiceProxyOptions{}, &keelsonv1alpha1.PluginLogOptions{},
	} {
		err := s.AddGeneratedConversionFunc((*url.Values)(nil), options, func(in, out any, _ conversion.Scope) error {
			return decodeValues(*in.(*url.Values), reflect.ValueOf(out).Elem())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// decodeValues sets the fields of a flat struct from query parameters named by their JSON tags.
func decodeValues(values url.Values, out reflect.Value) error {
	for i := range out.NumField() {
		name, _, _ := strings.Cut(out.Type().Field(i).Tag.Get("json"), ",")
		given, ok := values[name]
		if name == "" || !ok || len(given) == 0 {
			continue
		}
		target := out.Field(i)
		if target.Kind() == reflect.Slice {
			for _, v := range given {
				item := reflect.New(target.Type().Elem()).Elem()
				if err := decodeValue(v, item); err != nil {
					return err // which names no parameter, as upstream's does not
				}
				target.Set(reflect.Append(target, item))
			}
			continue
		}
		if target.Kind() == reflect.Pointer {
			target.Set(reflect.New(target.Type().Elem()))
			target = target.Elem()
		}
		if err := decodeValue(given[0], target); err != nil {
			return err
		}
	}
	return nil
}

func decodeValue(v string, target reflect.Value) error {
	if target.CanAddr() {
		if t, ok := reflect.TypeAssert[*metav1.Time](target.Addr()); ok {
			return t.UnmarshalQueryParameter(v)
		}
	}
	switch target.Kind() {
	case reflect.String:
		target.SetString(v)
	case reflect.Bool: // as in Kubernetes, a parameter without a value is true
		target.SetBool(v != "false" && v != "0")
	case reflect.Int32: // only lists of ports are such
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil {
			return fmt.Errorf("cannot convert to []int32: %w", err)
		}
		target.SetInt(int64(n))
	case reflect.Int64:
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return err
		}
		target.SetInt(n)
	default:
		return fmt.Errorf("no parameter can be a %s", target.Type())
	}
	return nil
}
