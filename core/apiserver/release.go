package apiserver

import (
	"runtime"

	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/component-base/compatibility"

	"keelson.dev/keelson/core/version"
)

// release is the version that the server has and reports.
type release struct{ compatibility.EffectiveVersion }

func newRelease() release {
	minor := version.KubernetesMajor + "." + version.KubernetesMinor
	return release{compatibility.NewEffectiveVersionFromString(minor, minor, "")}
}

// Info implements compatibility.EffectiveVersion. The one it covers reports the
// version linked into the Kubernetes libraries, which is none.
func (r release) Info() *apiversion.Info {
	info := r.EffectiveVersion.Info()
	info.GitVersion = version.Git()
	info.GitCommit = version.Build()
	info.GitTreeState = ""
	info.BuildDate = ""
	info.GoVersion, info.Compiler = runtime.Version(), runtime.Compiler
	info.Platform = runtime.GOOS + "/" + runtime.GOARCH
	return info
}
