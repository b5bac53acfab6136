package admission

import (
	"context"
	"fmt"
	"io"

	"k8s.io/apiserver/pkg/admission"
	genericinitializer "k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota/apis/resourcequota/validation"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/proto/quota"
)

// quotaWorkers is how many namespaces are judged at the same time.
const quotaWorkers = 5

// resourceQuota is upstream's plugin with our evaluators, behind a look into an
// index: where there is no quota, a request does not go through its queue.
type resourceQuota struct {
	*resourcequota.QuotaAdmission
	index   cache.Indexer
	synced  func() bool
	limited bool // some resources may be used under a quota only
}

var (
	_ admission.ValidationInterface                       = (*resourceQuota)(nil)
	_ genericinitializer.WantsExternalKubeInformerFactory = (*resourceQuota)(nil)
	_ genericinitializer.WantsDrainedNotification         = (*resourceQuota)(nil)
)

func registerQuota(plugins *admission.Plugins) {
	plugins.Register(resourcequota.PluginName, newResourceQuota)
}

func newResourceQuota(config io.Reader) (admission.Interface, error) {
	configuration, err := resourcequota.LoadConfiguration(config)
	if err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", resourcequota.PluginName, err)
	}
	if configuration != nil {
		if errs := validation.ValidateConfiguration(configuration); len(errs) > 0 {
			return nil, fmt.Errorf("configuration of %s: %w", resourcequota.PluginName, errs.ToAggregate())
		}
	}
	inner, err := resourcequota.NewResourceQuota(configuration, quotaWorkers)
	if err != nil {
		return nil, err
	}
	return &resourceQuota{QuotaAdmission: inner, limited: configuration != nil && len(configuration.LimitedResources) > 0}, nil
}

// SetDrainedNotification takes the channel that closes when the server has
// ended, and with it sets up the evaluators.
func (r *resourceQuota) SetDrainedNotification(stop <-chan struct{}) {
	r.QuotaAdmission.SetDrainedNotification(stop)
	r.SetQuotaConfiguration(generic.NewConfiguration(quota.Evaluators(nil), quota.Ignored()))
}

// SetExternalKubeInformerFactory takes the informers.
func (r *resourceQuota) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	r.QuotaAdmission.SetExternalKubeInformerFactory(f)
	inf := f.Core().V1().ResourceQuotas().Informer()
	r.index, r.synced = inf.GetIndexer(), inf.HasSynced
}

// Validate implements admission.ValidationInterface.
func (r *resourceQuota) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if a.GetNamespace() == "" {
		return nil
	}
	if !r.limited && r.synced() {
		keys, err := r.index.IndexKeys(cache.NamespaceIndex, a.GetNamespace())
		if err == nil && len(keys) == 0 {
			return nil
		}
	}
	return r.QuotaAdmission.Validate(ctx, a, o)
}
