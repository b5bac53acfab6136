package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	apiversion "k8s.io/apimachinery/pkg/version"

	"keelson.dev/keelson/core/version"
)

// ErrRelease says that a server is of a release that this agent does not work with.
var ErrRelease = errors.New("server and agent are not of one release")

// releaseRetry is the pause between questions to a server that does not answer.
const releaseRetry = 2 * time.Second

// checkRelease compares a server's version with an agent's. Objects and contracts are those of one Kubernetes minor; patch
// releases and builds may differ while a cluster is upgraded.
func checkRelease(server *apiversion.Info, own string) error {
	minor := func(v string) string {
		v, _, _ = strings.Cut(v, "+")
		if parts := strings.Split(v, "."); len(parts) >= 2 {
			return parts[0] + "." + parts[1]
		}
		return ""
	}
	switch {
	case !strings.HasSuffix(server.GitVersion, "+keelson"):
		return fmt.Errorf("%w: the server says that it is %q, which is no Keelson", ErrRelease, server.GitVersion)
	case minor(server.GitVersion) != minor(own):
		return fmt.Errorf("%w: the server is %s, this agent is %s: install the server's release on this node (the same minor; patch releases may differ)",
			ErrRelease, server.GitVersion, own)
	}
	return nil
}

// awaitRelease asks a server for its version until it answers. An error is ErrRelease, or that of ctx.
func awaitRelease(ctx context.Context, log *slog.Logger, ask func(context.Context) (*apiversion.Info, error)) error {
	for first := true; ; first = false {
		info, err := ask(ctx)
		if err == nil {
			if err := checkRelease(info, version.Git()); err != nil {
				return err
			}
			if info.GitCommit != version.Build() {
				log.Warn("Server and agent are of different builds; let them be the same when the upgrade is over", "server", info.GitVersion,
					"serverBuild", info.GitCommit, "agent", version.Git(), "agentBuild", version.Build())
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if first {
			log.Warn("Server does not answer; waiting for it", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(releaseRetry):
		}
	}
}
