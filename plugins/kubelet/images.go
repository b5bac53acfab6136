package kubelet

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageState is how far the image of a container that is to start has come.
type imageState struct {
	spec  string
	busy  bool
	image *runtimeapi.Image // ready
	ref   string
}

// readyImage is an image that a container can be created from.
type readyImage struct {
	Ref  string
	Info *runtimeapi.Image
}

var validImage = regexp.MustCompile(`^[a-zA-Z0-9.\-]+(:[0-9]+)?(/[a-z0-9._\-]+)*(:[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127})?(@[A-Za-z0-9]+:[0-9a-fA-F]{32,})?$`)

// imageFor returns the image of a container that is to start now. Where it is not there, the pull is begun (or waits for its back-off) and nil
// is returned, with the time to ask again.
func (w *podWorker) imageFor(now time.Time, c *corev1.Container) (*readyImage, time.Time) {
	st := w.images[c.Name]
	if st != nil && st.spec != c.Image && !st.busy {
		st = nil
	}
	switch {
	case st != nil && st.busy:
		return nil, time.Time{}
	case st != nil && st.image != nil:
		return &readyImage{st.ref, st.image}, time.Time{}
	}
	reason := w.waiting[c.Name].Reason
	if reason == "ErrImagePull" || reason == "ImagePullBackOff" {
		item := w.pullTries[c.Image]
		if item != nil && now.Before(item.last.Add(item.delay)) {
			// The error itself is shown for two seconds, then that its repetition is put off.
			if show := item.last.Add(2 * time.Second); reason == "ErrImagePull" && now.Before(show) {
				return nil, show
			} else if reason == "ErrImagePull" {
				w.waiting[c.Name] = waitReason{"ImagePullBackOff", fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %s", c.Image, w.waiting[c.Name].Message)}
				w.k.event(w.pod, c.Name, corev1.EventTypeNormal, "BackOff", "Back-off pulling image %q", c.Image)
			}
			return nil, item.last.Add(item.delay)
		}
	}
	st = &imageState{spec: c.Image, busy: true}
	w.images[c.Name] = st
	pod := w.pod
	w.async(w.startCtx, func(ctx context.Context) func() {
		image, ref, failed := w.k.ensureImage(ctx, pod, c)
		return func() {
			st.busy = false
			if failed == nil {
				st.image, st.ref = image, ref
				delete(w.pullTries, c.Image)
				return
			}
			delete(w.images, c.Name)
			if w.end != nil || ctx.Err() != nil {
				return
			}
			now := time.Now()
			w.pullTries.next(c.Image, now, now)
			w.waiting[c.Name] = waitReason{failed.reason, failed.message}
			if failed.reason == "ErrImagePull" {
				w.k.event(pod, c.Name, corev1.EventTypeWarning, "Failed", "Error: ErrImagePull")
				return
			}
			// Without an attempt to pull there is nothing to put off but the looking.
			w.k.event(pod, c.Name, corev1.EventTypeWarning, "Failed", "Error: %s", failed.reason)
			try := &retry{first: 5 * time.Second, last: time.Minute}
			try.failed(now)
			w.startTry[c.Name] = try
		}
	})
	return nil, time.Time{}
}

// ensureImage looks an image up and pulls it by the container's policy.
func (k *Kubelet) ensureImage(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (*runtimeapi.Image, string, *startError) {
	if !validImage.MatchString(c.Image) {
		message := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: invalid reference format", c.Image, c.Image)
		k.event(pod, c.Name, corev1.EventTypeWarning, "InspectFailed", "%s", message)
		return nil, "", &startError{"InvalidImageName", message}
	}
	spec := &runtimeapi.ImageSpec{Image: c.Image, UserSpecifiedImage: c.Image}
	policy := c.ImagePullPolicy
	if policy != corev1.PullAlways {
		image, err := k.imageStatus(ctx, spec)
		if err != nil {
			message := fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)
			k.event(pod, c.Name, corev1.EventTypeWarning, "InspectFailed", "%s", message)
			return nil, "", &startError{"ImageInspectError", message}
		}
		if image != nil {
			k.event(pod, c.Name, corev1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
			return image, imageRef(image), nil
		}
	}
	if policy == corev1.PullNever {
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		k.event(pod, c.Name, corev1.EventTypeWarning, "ErrImageNeverPull", "%s", message)
		return nil, "", &startError{"ErrImageNeverPull", message}
	}
	return k.pull(ctx, pod, c, spec)
}

func (k *Kubelet) pull(ctx context.Context, pod *corev1.Pod, c *corev1.Container, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, string, *startError) {
	k.event(pod, c.Name, corev1.EventTypeNormal, "Pulling", "Pulling image %q", c.Image)
	asked := time.Now()
	select {
	case k.pulls <- struct{}{}:
		defer func() { <-k.pulls }()
	case <-ctx.Done():
		return nil, "", &startError{"ErrImagePull", ctx.Err().Error()}
	}
	begun := time.Now()
	ref, err := k.pullWithSecrets(ctx, pod, spec)
	var image *runtimeapi.Image
	if err == nil {
		image, err = k.imageStatus(ctx, spec)
		if err == nil && image == nil {
			err = fmt.Errorf("the image is not there after its pull")
		}
	}
	if err != nil {
		message := fmt.Sprintf("failed to pull image %q: %v", c.Image, criMessage(err))
		if ctx.Err() == nil {
			k.event(pod, c.Name, corev1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", c.Image, criMessage(err))
		}
		return nil, "", &startError{"ErrImagePull", message}
	}
	now := time.Now()
	k.event(pod, c.Name, corev1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		c.Image, now.Sub(begun).Truncate(time.Millisecond), now.Sub(asked).Truncate(time.Millisecond), image.Size)
	if len(image.RepoDigests) > 0 {
		ref = imageRef(image)
	}
	return image, ref, nil
}

// pullWithSecrets tries each matching credential, then none.
func (k *Kubelet) pullWithSecrets(ctx context.Context, pod *corev1.Pod, spec *runtimeapi.ImageSpec) (string, error) {
	var auths []*runtimeapi.AuthConfig
	for _, s := range pod.Spec.ImagePullSecrets {
		secret, err := k.objects.Secret(ctx, pod.Namespace, s.Name)
		if err != nil {
			k.event(pod, "", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", s.Name)
			continue
		}
		auths = append(auths, matchingAuths(secret, spec.Image)...)
	}
	auths = append(auths, nil)
	var first error
	for _, auth := range auths {
		resp, err := k.cri.img.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: auth,
			SandboxConfig: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID)}}})
		if err == nil {
			return resp.ImageRef, nil
		}
		if first == nil {
			first = err
		}
	}
	return "", first
}

func (k *Kubelet) imageStatus(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, criTimeout)
	defer cancel()
	resp, err := k.cri.img.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	return resp.GetImage(), err
}

func imageRef(i *runtimeapi.Image) string { return i.Id }

type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// matchingAuths returns the credentials of a pull secret that are meant for an image's registry.
func matchingAuths(secret *corev1.Secret, image string) []*runtimeapi.AuthConfig {
	auths := map[string]dockerAuth{}
	switch secret.Type {
	case corev1.SecretTypeDockerConfigJson:
		var conf struct {
			Auths map[string]dockerAuth `json:"auths"`
		}
		if json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &conf) == nil {
			auths = conf.Auths
		}
	case corev1.SecretTypeDockercfg:
		_ = json.Unmarshal(secret.Data[corev1.DockerConfigKey], &auths)
	}
	var out []*runtimeapi.AuthConfig
	for _, server := range sortedKeys(auths) {
		if !registryMatches(server, image) {
			continue
		}
		a := auths[server]
		if a.Username == "" && a.Auth != "" {
			if raw, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
				a.Username, a.Password, _ = strings.Cut(string(raw), ":")
			}
		}
		out = append(out, &runtimeapi.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken, ServerAddress: server})
	}
	return out
}

func registryMatches(server, image string) bool {
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	server = strings.TrimSuffix(server, "/")
	host, rest, hasPath := strings.Cut(server, "/")
	first, imagePath, qualified := strings.Cut(image, "/")
	if !qualified || !strings.ContainsAny(first, ".:") && first != "localhost" {
		first, imagePath = "docker.io", image
	}
	if host == "index.docker.io" {
		host, rest, hasPath = "docker.io", "", false
	}
	if ok, err := path.Match(host, first); err != nil || !ok {
		return false
	}
	return !hasPath || rest == "v1" || rest == "v2" || strings.HasPrefix(imagePath, rest)
}
