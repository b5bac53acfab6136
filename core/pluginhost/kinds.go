package pluginhost

import (
	"path/filepath"
	"slices"
)

// socketKinds are the kinds that other plugins call: one of each is active on a node and
// serves at RunDir/KIND.sock.
var socketKinds = []string{"network", "runtime", "storage"}

// askedKinds are the kinds that the API server asks. Several of each may be active, so that
// each has a socket of its own, RunDir/KIND-NAME.sock.
var askedKinds = []string{"admission", "authentication", "authorization"}

// Socket is where a plugin serves its kind's contract; empty for kinds that nobody calls.
func Socket(runDir, kind, name string) string {
	switch {
	case slices.Contains(socketKinds, kind):
		return filepath.Join(runDir, kind+".sock")
	case slices.Contains(askedKinds, kind):
		return filepath.Join(runDir, kind+"-"+name+".sock")
	default:
		return ""
	}
}
