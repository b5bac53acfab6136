// Package version knows which Keelson this is and which Kubernetes API it serves.
package version

// Kubernetes is the release whose API is served; k8s.io/* modules in go.mod have
// the same minor.
const (
	KubernetesMajor = "1"
	KubernetesMinor = "37"
	Kubernetes      = "v1.37.2"
)

// build is set by the Makefile (-ldflags -X) to what `git describe` says.
var build = "unknown"

// Build names the source that this binary was built from.
func Build() string { return build }

// Git is the version that the API server reports, in Kubernetes' form: the
// served release, with Keelson as build metadata (SemVer 2.0, clause 10).
func Git() string { return Kubernetes + "+keelson" }
