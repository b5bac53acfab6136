package kit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Env is all that a plugin is told and given.
type Env struct {
	// Name and Version of the plugin.
	Name, Version string
	// Log is the plugin's logger; the kernel keeps what it writes.
	Log *slog.Logger
	// Config is the plugin's own configuration as JSON; see Decode.
	Config json.RawMessage
	// API says how to reach the Kubernetes API, and as whom.
	API API
	// RESTConfig is API, ready to use: protobuf, no limit on requests, always with the
	// certificate in force. Copy it before changing it. Nil if there is no API (in tests).
	RESTConfig *rest.Config
	// Cluster has settings that all nodes share.
	Cluster Cluster
	// Node is the machine that the plugin runs on.
	Node Node
	// DataDir is for state that outlives the process, RunDir for files of this boot.
	// Both exist, mode 0700, and are the plugin's alone.
	DataDir, RunDir string
	// Listen is the Unix socket at which a kind with callers serves; see ServeGRPC.
	// Empty for other kinds.
	Listen string
	// Endpoints are the sockets of the kinds in Plugin.Requires, by kind. The plugin
	// behind one may come up later, and come back: connect lazily (DialSocket).
	Endpoints map[string]string
	// Serving is the certificate for ports that it serves, if it asked for one, as it
	// was at Configure; GetCertificate has the one in force.
	Serving *KeyPair
	// Health is where the plugin says how it is.
	Health *Health
	// Metrics is served on RunDir/metrics.sock as /metrics.
	Metrics *prometheus.Registry
	// Decisions is where a plugin of a kind that decides tells what; see Shadower.
	Decisions *Decisions
	// Process ends with the process, and is for streams that others have open: they
	// outlive the activation in which they began. Nil (in tests): for ever.
	Process context.Context

	sockets     *sockets     // that the kernel keeps; nil in tests
	streams     *streams     // of the process; nil in tests
	credentials *credentials // in force; nil in tests
	fail        func(error)  // ends the plugin; nil in tests
}

// hangUp closes connections to the API that nothing uses.
func (e *Env) hangUp() {
	if e != nil && e.credentials != nil && e.credentials.transport != nil {
		e.credentials.transport.CloseIdleConnections()
	}
}

// Caught is to be deferred where goroutines of the plugin's own take in what strangers
// send. It makes a panic the end of the plugin, which is started again; without, it is the
// end of the process, and a built-in plugin may run in the kernel's (Plugin.InProcess).
func (e *Env) Caught() {
	r := recover()
	switch {
	case r == nil:
	case e == nil || e.fail == nil:
		panic(r)
	default:
		e.fail(fmt.Errorf("panic: %v\n%s", r, debug.Stack()))
	}
}

// API says how to reach the Kubernetes API, and as whom. All but Server is PEM.
type API struct {
	// Server is the URL, https.
	Server string
	// CA vouches for the server, and for clients of ports that the plugin serves.
	CA []byte
	// Cert and Key are the identity system:plugin:NAME (of a kubelet system:node:NODE),
	// as they were at Configure.
	Cert, Key []byte
}

// Cluster has settings that all nodes share.
type Cluster struct {
	// PodCIDRs and ServiceCIDRs are the networks, at most one for each IP family.
	PodCIDRs, ServiceCIDRs []netip.Prefix
	// Domain is the DNS domain, "cluster.local" by default.
	Domain string
	// DNSAddress is the address of the cluster's DNS service.
	DNSAddress netip.Addr
}

// Node is the machine that the plugin runs on.
type Node struct {
	// Name of the Node object.
	Name string
	// Addresses; the first is the internal IP.
	Addresses []netip.Addr
	// KubeletPort is where the kubelet serves its API.
	KubeletPort int
}

// KeyPair is a certificate chain and its private key in PEM.
type KeyPair struct {
	Certificate, PrivateKey []byte
}

// Decode decodes the plugin's configuration into a struct. An unknown field, a wrong
// type or anything after the object is an error; an empty configuration leaves into as
// it is, so set defaults before or after.
func (e *Env) Decode(into any) error {
	raw := bytes.TrimSpace(e.Config)
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return status.Errorf(codes.InvalidArgument, "config: %s", decodeMessage(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return status.Error(codes.InvalidArgument, "config: something follows the JSON object")
	}
	return nil
}

// Configuration is a pointer to a plugin's configuration.
type Configuration interface {
	// SetDefaults gives what is absent its default.
	SetDefaults()
	// Validate lists what is wrong; it is called after SetDefaults.
	Validate() field.ErrorList
}

// LoadConfig decodes the plugin's configuration, sets its defaults and checks it. The
// error is one to return from New.
func (e *Env) LoadConfig(into Configuration) error {
	if err := e.Decode(into); err != nil {
		return err
	}
	into.SetDefaults()
	return FieldErrors(into.Validate())
}

// RemoveDirs removes folders with all that is in them, for a plugin's Purge; an empty
// name is skipped. It goes on after errors and returns them all.
func RemoveDirs(dirs ...string) error {
	var errs []error
	for _, dir := range dirs {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// decodeMessage says which field is wrong, in the words of who wrote it.
func decodeMessage(err error) string {
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && wrongType.Field != "" {
		return fmt.Sprintf("%s: got a JSON %s, want %s", wrongType.Field, wrongType.Value, wrongType.Type)
	}
	return err.Error()
}

// FieldErrors is the error that New returns for a configuration with faults: it names
// every field and value. Nil for an empty list.
func FieldErrors(list field.ErrorList) error {
	if len(list) == 0 {
		return nil
	}
	return status.Error(codes.InvalidArgument, list.ToAggregate().Error())
}

// Clientset is a typed client of the Kubernetes API under the plugin's own identity.
func (e *Env) Clientset() (kubernetes.Interface, error) {
	if e.RESTConfig == nil {
		return nil, errors.New("make a Kubernetes client: the plugin was given no API server")
	}
	return kubernetes.NewForConfig(rest.CopyConfig(e.RESTConfig))
}

// Life is Process, never nil.
func (e *Env) Life() context.Context {
	if e.Process == nil {
		return context.Background()
	}
	return e.Process
}
