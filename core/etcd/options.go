package etcd

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"
)

// DefaultPrefix is below what Kubernetes keeps its objects.
const DefaultPrefix = "/registry"

// Options say which etcd, and how it is reached. The fields are those of
// kube-apiserver's flags --etcd-*.
type Options struct {
	// Servers are the URLs of the members' client ports.
	Servers []string
	// CAFile vouches for the members, CertFile and KeyFile are this server's identity.
	CAFile, CertFile, KeyFile string
	// Prefix is below what the objects are. Default DefaultPrefix.
	Prefix string
	// CompactionInterval is how often history is compacted, 0 for never.
	CompactionInterval time.Duration
	// Log gets what the store has to say; nil means none.
	Log *slog.Logger
}

// Validate tells what cannot be meant. The names are those of the flags.
func (o *Options) Validate() []error {
	var errs []error
	if len(o.Servers) == 0 {
		errs = append(errs, errors.New("--etcd-servers: must name the etcd, such as https://192.0.2.20:2379"))
	}
	secure := false
	for _, s := range o.Servers {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "unix" {
			errs = append(errs, fmt.Errorf("--etcd-servers %q: must be a URL such as https://192.0.2.20:2379", s))
			continue
		}
		secure = secure || u.Scheme == "https"
	}
	for flag, file := range map[string]string{"etcd-cafile": o.CAFile, "etcd-certfile": o.CertFile, "etcd-keyfile": o.KeyFile} {
		if file == "" {
			continue
		}
		if _, err := os.ReadFile(file); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		} else if !secure && len(o.Servers) > 0 {
			errs = append(errs, fmt.Errorf("--%s %s: goes with --etcd-servers that begin with https://", flag, file))
		}
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		errs = append(errs, errors.New("--etcd-certfile and --etcd-keyfile: must both be given, or neither"))
	}
	if o.Prefix != "" && (!strings.HasPrefix(o.Prefix, "/") || strings.Trim(o.Prefix, "/") == "") {
		errs = append(errs, fmt.Errorf("--etcd-prefix %q: must be a path such as %s", o.Prefix, DefaultPrefix))
	}
	if o.CompactionInterval < 0 {
		errs = append(errs, fmt.Errorf("--etcd-compaction-interval %s: must not be negative", o.CompactionInterval))
	}
	return errs
}

// prefix is that of the objects' keys, without a slash at its end.
func (o *Options) prefix() string {
	if o.Prefix == "" {
		return DefaultPrefix
	}
	return "/" + strings.Trim(o.Prefix, "/")
}
