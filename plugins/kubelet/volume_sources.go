package kubelet

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func (v *volumes) configMapFiles(ctx context.Context, ns, name string, items []corev1.KeyToPath, mode *int32, opt *bool) (map[string]payloadFile, error) {
	cm, err := v.objects.ConfigMap(ctx, ns, name)
	if apierrors.IsNotFound(err) && optional(opt) {
		return map[string]payloadFile{}, nil
	} else if err != nil {
		return nil, err
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, s := range cm.Data {
		data[k] = []byte(s)
	}
	maps.Copy(data, cm.BinaryData)
	return project(data, items, mode, optional(opt), "configmap references non-existent config key")
}

func (v *volumes) secretFiles(ctx context.Context, ns, name string, items []corev1.KeyToPath, mode *int32, opt *bool) (map[string]payloadFile, error) {
	secret, err := v.objects.Secret(ctx, ns, name)
	if apierrors.IsNotFound(err) && optional(opt) {
		return map[string]payloadFile{}, nil
	} else if err != nil {
		return nil, err
	}
	return project(secret.Data, items, mode, optional(opt), "references non-existent secret key")
}

func fileMode(item, deflt *int32) fs.FileMode {
	switch {
	case item != nil:
		return fs.FileMode(*item)
	case deflt != nil:
		return fs.FileMode(*deflt)
	}
	return 0o644
}

// project picks keys into paths; without items every key is a file.
func project(data map[string][]byte, items []corev1.KeyToPath, mode *int32, opt bool, missing string) (map[string]payloadFile, error) {
	out := map[string]payloadFile{}
	if len(items) == 0 {
		for k, b := range data {
			out[k] = payloadFile{Data: b, Mode: fileMode(nil, mode)}
		}
		return out, nil
	}
	for _, it := range items {
		b, ok := data[it.Key]
		if !ok {
			if opt {
				continue
			}
			return nil, fmt.Errorf("%s: %s", missing, it.Key)
		}
		out[path.Clean(it.Path)] = payloadFile{Data: b, Mode: fileMode(it.Mode, mode)}
	}
	return out, nil
}

func (v *volumes) downwardFiles(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode *int32) (map[string]payloadFile, error) {
	out := map[string]payloadFile{}
	for _, it := range items {
		var value string
		var err error
		switch {
		case it.FieldRef != nil:
			value, err = fieldValue(pod, it.FieldRef.FieldPath, envSource{NodeName: v.nodeName})
		case it.ResourceFieldRef != nil:
			value, err = resourceValue(pod, nil, it.ResourceFieldRef, v.allocatable())
		}
		if err != nil {
			return nil, err
		}
		out[path.Clean(it.Path)] = payloadFile{Data: []byte(value), Mode: fileMode(it.Mode, mode)}
	}
	return out, nil
}

func (v *volumes) projectedFiles(ctx context.Context, pod *corev1.Pod, src *corev1.ProjectedVolumeSource) (map[string]payloadFile, time.Time, error) {
	out := map[string]payloadFile{}
	var again time.Time
	for _, s := range src.Sources {
		var files map[string]payloadFile
		var err error
		switch {
		case s.Secret != nil:
			files, err = v.secretFiles(ctx, pod.Namespace, s.Secret.Name, s.Secret.Items, src.DefaultMode, s.Secret.Optional)
		case s.ConfigMap != nil:
			files, err = v.configMapFiles(ctx, pod.Namespace, s.ConfigMap.Name, s.ConfigMap.Items, src.DefaultMode, s.ConfigMap.Optional)
		case s.DownwardAPI != nil:
			files, err = v.downwardFiles(pod, s.DownwardAPI.Items, src.DefaultMode)
		case s.ServiceAccountToken != nil:
			var token string
			var refresh time.Time
			token, refresh, err = v.tokens.get(ctx, pod, s.ServiceAccountToken)
			if again.IsZero() || refresh.Before(again) {
				again = refresh
			}
			f := payloadFile{Data: []byte(token), Mode: fileMode(nil, src.DefaultMode)}
			f.UID = onlyUser(pod)
			if f.UID != nil || fsGroup(pod) != nil {
				f.Mode = 0o600
			}
			files = map[string]payloadFile{path.Clean(s.ServiceAccountToken.Path): f}
		default:
			err = fmt.Errorf("a projected source is of a kind that this kubelet does not support")
		}
		if err != nil {
			return nil, again, err
		}
		maps.Copy(out, files)
	}
	return out, again, nil
}

// onlyUser is the user that all containers of a pod run as, if they all say the same one.
func onlyUser(pod *corev1.Pod) *int64 {
	var user *int64
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			u := effectiveSecurity(pod, &list[i]).RunAsUser
			if u == nil || user != nil && *u != *user {
				return nil
			}
			user = u
		}
	}
	return user
}
