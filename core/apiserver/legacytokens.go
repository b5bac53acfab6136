package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/core/auth"
)

// trackingConfigMap, in kube-system, says by its key since which day the use of legacy
// service account tokens is noted on their secrets. Who cleans them up reads it: a secret
// without the label has not been used since then.
const (
	trackingConfigMap = "kube-apiserver-legacy-service-account-token-tracking"
	trackingSince     = "since"
)

// trackingInformers watch the config map alone.
func trackingInformers(c kubernetes.Interface) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(c, 0, informers.WithNamespace(metav1.NamespaceSystem),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, trackingConfigMap).String()
		}))
}

// ensureTokenTracking writes the config map with today's date, unless it has a date.
func (s *Server) ensureTokenTracking(ctx context.Context) error {
	configMaps := s.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	today := time.Now().UTC().Format(time.DateOnly)
	have, err := configMaps.Get(ctx, trackingConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = configMaps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: trackingConfigMap}, Data: map[string]string{trackingSince: today},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			err = nil
		}
	} else if err == nil {
		if _, bad := time.Parse(time.DateOnly, have.Data[trackingSince]); bad == nil {
			return nil
		}
		have = have.DeepCopy()
		if have.Data == nil {
			have.Data = map[string]string{}
		}
		have.Data[trackingSince] = today
		_, err = configMaps.Update(ctx, have, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("ensure config map %s: %w", trackingConfigMap, err)
	}
	return nil
}

// markTokenUsed labels a secret whose token has been used. What fails is tried again at
// the next use.
func (s *Server) markTokenUsed(ctx context.Context, secret *corev1.Secret, day string) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": secret.UID, "labels": map[string]string{auth.LabelLastUsed: day},
	}})
	if err == nil {
		_, err = s.client.CoreV1().Secrets(secret.Namespace).Patch(ctx, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
		s.config.Log.Warn("The use of a legacy token could not be noted", "namespace", secret.Namespace, "secret", secret.Name, "err", err)
	}
}
