package accounts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// servingSigner is whose certificates the API server shows.
const servingSigner = "kubernetes.io/kube-apiserver-serving"

// Bundle is the publisher of the API server's authority as a ClusterTrustBundle, for
// projected volumes of pods. It has one name for each content, and those of contents
// before are deleted. Keys are names of bundles.
type Bundle struct {
	client  kubernetes.Interface
	bundles *control.Part[*certificatesv1.ClusterTrustBundle]
	name    string
	ca      string
	loop    *control.Loop
}

// NewBundle registers the controller's handlers; Run does the work.
func NewBundle(c *control.Context) (*Bundle, error) {
	sum := sha256.Sum256(c.CA)
	b := &Bundle{
		client: c.Client, ca: string(c.CA), name: "kubernetes.io:kube-apiserver-serving:" + hex.EncodeToString(sum[:])[:12],
		bundles: control.NewPart[*certificatesv1.ClusterTrustBundle](c, "", fields.OneTermEqualSelector("spec.signerName", servingSigner),
			func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
				return f.Certificates().V1().ClusterTrustBundles().Informer()
			}),
	}
	b.loop = control.NewLoop(c, "servingbundle", 1, b.sync)
	b.loop.EnqueueKey(b.name)
	each := func(o *certificatesv1.ClusterTrustBundle) { b.loop.Enqueue(o) }
	if _, err := control.Handle(b.bundles.Informer, each, func(_, o *certificatesv1.ClusterTrustBundle) { each(o) }, each); err != nil {
		return nil, fmt.Errorf("watch cluster trust bundles: %w", err)
	}
	return b, nil
}

// Warm keeps the cache of the signer's bundles.
func (b *Bundle) Warm(ctx context.Context) error { return b.bundles.Warm(ctx) }

// Run works until ctx ends.
func (b *Bundle) Run(ctx context.Context) error { return b.loop.Run(ctx) }

func (b *Bundle) sync(ctx context.Context, name string) error {
	bundles := b.client.CertificatesV1().ClusterTrustBundles()
	have, ok := b.bundles.Get("", name)
	switch {
	case name != b.name && !ok:
		return nil
	case name != b.name:
		err := bundles.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &have.UID}})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete cluster trust bundle %s: %w", name, err)
		}
		return nil
	case !ok:
		_, err := bundles.Create(ctx, &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: servingSigner, TrustBundle: b.ca},
		}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create cluster trust bundle %s: %w", name, err)
		}
		return nil
	case have.Spec.TrustBundle == b.ca:
		return nil
	}
	next := have.DeepCopy()
	next.Spec.TrustBundle = b.ca
	if _, err := bundles.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("restore cluster trust bundle %s: %w", name, err)
	}
	return nil
}
