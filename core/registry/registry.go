package registry

import (
	"fmt"
	"maps"
	"sort"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"keelson.dev/keelson/core/registry/admissionregistration"
	"keelson.dev/keelson/core/registry/apps"
	"keelson.dev/keelson/core/registry/authentication"
	"keelson.dev/keelson/core/registry/authorization"
	"keelson.dev/keelson/core/registry/autoscaling"
	"keelson.dev/keelson/core/registry/batch"
	"keelson.dev/keelson/core/registry/certificates"
	"keelson.dev/keelson/core/registry/coordination"
	"keelson.dev/keelson/core/registry/core"
	"keelson.dev/keelson/core/registry/devices"
	"keelson.dev/keelson/core/registry/discovery"
	"keelson.dev/keelson/core/registry/flowcontrol"
	"keelson.dev/keelson/core/registry/keelson"
	"keelson.dev/keelson/core/registry/networking"
	"keelson.dev/keelson/core/registry/node"
	"keelson.dev/keelson/core/registry/policy"
	"keelson.dev/keelson/core/registry/rbac"
	"keelson.dev/keelson/core/registry/resource"
	"keelson.dev/keelson/core/registry/scheduling"
	"keelson.dev/keelson/core/registry/storage"
	"keelson.dev/keelson/core/registry/storagemigration"
	keelsonv1alpha1 "keelson.dev/keelson/proto/api/v1alpha1"
)

var (
	// Scheme knows all kinds that the API server serves, with their defaults.
	Scheme = resource.Scheme
	// Codecs encode and decode the kinds of Scheme.
	Codecs = resource.Codecs
	// ParameterCodec reads options from query parameters.
	ParameterCodec = resource.ParameterCodec
)

type (
	// Config is what the registry needs from the server around it.
	Config = resource.Config
	// KubeletConnector finds the way to a node's kubelet.
	KubeletConnector = resource.KubeletConnector
	// TokenIssuer signs service account tokens.
	TokenIssuer = resource.TokenIssuer
	// PluginOperator acts on the processes behind Plugin objects.
	PluginOperator = resource.PluginOperator
)

// kinds lists all kinds, group by group. The order within it has no meaning.
var kinds = concat(
	core.Kinds,
	[]resource.Kind{core.EventsV1},
	apps.Kinds,
	batch.Kinds,
	discovery.Kinds,
	coordination.Kinds,
	rbac.Kinds,
	policy.Kinds,
	scheduling.Kinds,
	networking.Kinds,
	storage.Kinds,
	node.Kinds,
	certificates.Kinds,
	authentication.Kinds,
	authorization.Kinds,
	admissionregistration.Kinds,
	flowcontrol.Kinds,
	autoscaling.Kinds,
	devices.Kinds,
	storagemigration.Kinds,
	keelson.Kinds,
)

func init() {
	for _, k := range kinds {
		utilruntime.Must(k.AddToScheme(Scheme))
	}
}

// APIGroups makes the API groups to install in a generic API server. The group
// with the empty name is the legacy one, to be installed under /api.
func APIGroups(c Config) ([]*genericapiserver.APIGroupInfo, error) {
	if c.RESTOptions == nil || len(c.ServiceCIDRs) == 0 {
		return nil, fmt.Errorf("registry needs REST options and a service CIDR")
	}
	env := resource.NewEnv(c)
	groups := map[string]*genericapiserver.APIGroupInfo{}
	for _, k := range kinds {
		storages, err := k.Storage(env)
		if err != nil {
			return nil, err
		}
		if len(storages) == 0 { // stored only, or not to be served here
			continue
		}
		gv := k.Version()
		info := groups[gv.Group]
		if info == nil {
			g := genericapiserver.NewDefaultAPIGroupInfo(gv.Group, Scheme, ParameterCodec, Codecs)
			info = &g
			groups[gv.Group] = info
		}
		if info.VersionedResourcesStorageMap[gv.Version] == nil {
			info.VersionedResourcesStorageMap[gv.Version] = map[string]rest.Storage{}
		}
		maps.Copy(info.VersionedResourcesStorageMap[gv.Version], storages)
	}
	var all []*genericapiserver.APIGroupInfo
	for _, g := range groups {
		if len(g.VersionedResourcesStorageMap) > 0 {
			all = append(all, g)
		}
	}
	sort.Slice(all, func(i, j int) bool { return groupName(all[i]) < groupName(all[j]) })
	return all, nil
}

// StorageCodec gives the codec in which objects of a group are stored:
// protobuf for Kubernetes' own kinds, JSON for those of keelson.dev.
func StorageCodec(group string) runtime.Codec {
	mediaType := runtime.ContentTypeProtobuf
	if group == keelsonv1alpha1.GroupName {
		mediaType = runtime.ContentTypeJSON
	}
	info, ok := runtime.SerializerInfoForMediaType(Codecs.SupportedMediaTypes(), mediaType)
	if !ok {
		panic("no serializer for " + mediaType)
	}
	versions := Scheme.PrioritizedVersionsForGroup(group)
	internal := schema.GroupVersion{Group: group, Version: runtime.APIVersionInternal}
	return Codecs.CodecForVersions(info.Serializer, Codecs.UniversalDeserializer(),
		schema.GroupVersions(versions), schema.GroupVersions{internal})
}

// StorageVersion is the version that StorageCodec stores the kinds of a group in.
func StorageVersion(group string) schema.GroupVersion {
	if versions := Scheme.PrioritizedVersionsForGroup(group); len(versions) > 0 {
		return versions[0]
	}
	return schema.GroupVersion{Group: group}
}

func groupName(g *genericapiserver.APIGroupInfo) string { return g.PrioritizedVersions[0].Group }

func concat(lists ...[]resource.Kind) []resource.Kind {
	var all []resource.Kind
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}
