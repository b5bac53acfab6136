package admission

import (
	"context"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission"
	genericinitializer "k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

const (
	defaultServiceAccount = "default"
	// tokenMountPath is where programs in pods look for their token.
	tokenMountPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolume    = "kube-api-access-"
	// rootCAConfigMap is in each namespace; the controllers plugin keeps it.
	rootCAConfigMap = "kube-root-ca.crt"
	// tokenSeconds is how long a pod's token lives: an hour, and 7 s to be told from others.
	tokenSeconds = 60*60 + 7
	// enforceMountable is set on accounts whose pods may use listed secrets only.
	enforceMountable = "kubernetes.io/enforce-mountable-secrets"
	// accountWait is how long a pod's creation waits for the account to appear,
	// which the controllers make a moment after the namespace.
	accountWait     = 2 * time.Second
	accountInterval = 50 * time.Millisecond
)

// serviceAccount gives each pod a service account, its image pull secrets and a volume with its token.
type serviceAccount struct {
	*admission.Handler
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
}

var (
	_ admission.MutationInterface                         = (*serviceAccount)(nil)
	_ admission.ValidationInterface                       = (*serviceAccount)(nil)
	_ genericinitializer.WantsExternalKubeClientSet       = (*serviceAccount)(nil)
	_ genericinitializer.WantsExternalKubeInformerFactory = (*serviceAccount)(nil)
)

func newServiceAccount(io.Reader) (admission.Interface, error) {
	return &serviceAccount{Handler: admission.NewHandler(admission.Create, admission.Update)}, nil
}

// SetExternalKubeClientSet takes the client.
func (s *serviceAccount) SetExternalKubeClientSet(c kubernetes.Interface) { s.client = c }

// SetExternalKubeInformerFactory takes the informers.
func (s *serviceAccount) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	accounts := f.Core().V1().ServiceAccounts()
	s.accounts = accounts.Lister()
	s.SetReadyFunc(accounts.Informer().HasSynced)
}

// ValidateInitialization checks that all has been handed in.
func (s *serviceAccount) ValidateInitialization() error {
	if s.client == nil || s.accounts == nil {
		return fmt.Errorf("admission plugin %s needs a client and informers", ServiceAccountName)
	}
	return nil
}

// podOf gives the pod of a request on pods themselves.
func podOf(a admission.Attributes) (*corev1.Pod, bool) {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "" {
		return nil, false
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	return pod, ok
}

// Admit implements admission.MutationInterface.
func (s *serviceAccount) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a)
	if !ok || a.GetOperation() != admission.Create {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return nil // what the kubelet shows of its own pods uses nothing of the API
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := s.account(ctx, a.GetNamespace(), pod.Spec.ServiceAccountName)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), pod.Spec.ServiceAccountName, err))
	}
	if automounts(account, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = append([]corev1.LocalObjectReference(nil), account.ImagePullSecrets...)
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (s *serviceAccount) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a)
	if !ok || a.GetOperation() != admission.Create {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		if pod.Spec.ServiceAccountName != "" {
			return admission.NewForbidden(a, fmt.Errorf("a mirror pod may not reference service accounts"))
		}
		return nil
	}
	account, err := s.account(ctx, a.GetNamespace(), pod.Spec.ServiceAccountName)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), pod.Spec.ServiceAccountName, err))
	}
	if account.Annotations[enforceMountable] == "true" {
		if err := onlyListed(account, pod); err != nil {
			return admission.NewForbidden(a, err)
		}
	}
	return nil
}

// account finds a service account, in the cache or else in the API. One that
// is not there yet is waited for, a moment.
func (s *serviceAccount) account(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if !s.WaitForReady() {
		return nil, fmt.Errorf("not yet ready to handle request")
	}
	if account, err := s.accounts.ServiceAccounts(namespace).Get(name); err == nil {
		return account, nil
	}
	var account *corev1.ServiceAccount
	var last error
	// The last try, too, is to get its answer: it has the request's context, not the wait's.
	err := wait.PollUntilContextTimeout(ctx, accountInterval, accountWait, true, func(context.Context) (bool, error) {
		account, last = s.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(last) {
			return name != defaultServiceAccount, nil // only the default account is sure to come
		}
		return true, nil
	})
	if apierrors.IsNotFound(last) { // in upstream's words, which clients look for
		return nil, apierrors.NewNotFound(corev1.Resource("serviceaccount"), name)
	}
	if last != nil {
		return nil, last
	}
	return account, err
}

// automounts says whether the pod gets a token: what the pod says goes before what the account says.
func automounts(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	if pod.Spec.AutomountServiceAccountToken != nil {
		return *pod.Spec.AutomountServiceAccountToken
	}
	return account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken
}

// mountToken adds the volume and a mount in each container that has none there.
func mountToken(pod *corev1.Pod) {
	name := names.SimpleNameGenerator.GenerateName(tokenVolume)
	for _, v := range pod.Spec.Volumes { // a pod that was copied from another brings its volume
		if len(v.Name) > len(tokenVolume) && v.Name[:len(tokenVolume)] == tokenVolume && v.Projected != nil {
			name = v.Name
		}
	}
	used := false
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if mounted(&list[i]) {
				continue
			}
			list[i].VolumeMounts = append(list[i].VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
			used = true
		}
	}
	if !used {
		return
	}
	for _, v := range pod.Spec.Volumes {
		if v.Name == name {
			return
		}
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenSource()}})
}

func mounted(c *corev1.Container) bool {
	for _, m := range c.VolumeMounts {
		if m.MountPath == tokenMountPath {
			return true
		}
	}
	return false
}

// tokenSource is what programs expect there: the token, the CA and the namespace.
func tokenSource() *corev1.ProjectedVolumeSource {
	seconds, mode := int64(tokenSeconds), corev1.ProjectedVolumeSourceDefaultMode
	return &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}
}

// onlyListed refuses secrets that the account does not list.
func onlyListed(account *corev1.ServiceAccount, pod *corev1.Pod) error {
	listed := map[string]bool{}
	for _, s := range account.Secrets {
		listed[s.Name] = true
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil && !listed[v.Secret.SecretName] {
			return fmt.Errorf("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", v.Secret.SecretName, account.Name)
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			for _, env := range c.Env {
				if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil && !listed[env.ValueFrom.SecretKeyRef.Name] {
					return fmt.Errorf("container %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
						c.Name, env.Name, env.ValueFrom.SecretKeyRef.Name, account.Name)
				}
			}
		}
	}
	return nil
}
