package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubectl/pkg/util/templates"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/kernel"
)

// backupCommand takes a backup.
type backupCommand struct {
	dirs
	offline   bool
	namespace string
	format    string
	noPKI     bool
	decrypt   bool
	config    *genericclioptions.ConfigFlags
	streams   genericiooptions.IOStreams
}

func newBackupCommand(streams genericiooptions.IOStreams, config *genericclioptions.ConfigFlags) *cobra.Command {
	b := backupCommand{config: config, streams: streams}
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Take a backup of the cluster while it runs",
		Long: templates.LongDesc(`
			Take a backup of the cluster while it runs: all objects at one revision, the certificate
			authority's keys, Keelson's keys of encryption at rest and the server's settings. The file is verified
			before it gets its name. Keep it as secret as the cluster's own keys: it has them.

			With --namespace, only the objects of that namespace. With --format=etcd, all objects as
			a snapshot that etcdutl snapshot restore takes; Secrets in it stay encrypted unless
			--decrypt is given.

			With --data-dir, of a server that does not run.`),
		Example: templates.Examples(`
			# The whole cluster
			keelson backup cluster.keelson

			# For an etcd of upstream's Kubernetes
			keelson backup --format=etcd snapshot.db

			# Is the file whole, and what is in it?
			keelson backup verify cluster.keelson`),
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b.offline = cmd.Flags().Changed("data-dir")
			return b.run(cmd.Context(), args[0])
		},
	}
	b.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&b.format, "format", backup.FormatKeelson, "Format of the file: keelson or etcd")
	cmd.Flags().BoolVar(&b.noPKI, "no-pki", false, "Leave out the keys of the certificate authority and of encryption at rest, and the server's settings")
	cmd.Flags().BoolVar(&b.decrypt, "decrypt", false, "With --format=etcd: write in plain what is encrypted at rest")
	genericNamespace(cmd, &b.namespace)
	cmd.Flags().Lookup("data-dir").Usage = "Take the backup of this data folder, on which no server runs"
	cmd.AddCommand(newVerifyCommand(streams), newListCommand(streams))
	return cmd
}

// genericNamespace is a flag of its own: the context's namespace must not narrow a backup.
func genericNamespace(cmd *cobra.Command, namespace *string) {
	cmd.Flags().StringVarP(namespace, "namespace", "n", "", "Only the objects of this namespace")
}

func newVerifyCommand(streams genericiooptions.IOStreams) *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE",
		Short: "Read a backup or a snapshot of etcd, and say whether it is whole",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := backup.Open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			describe(streams, a)
			return a.Close()
		},
	}
}

// describe says what an archive has in it.
func describe(streams genericiooptions.IOStreams, a *backup.Archive) {
	what := "the whole cluster"
	if a.Header.Namespace != "" {
		what = "namespace " + a.Header.Namespace
	}
	fmt.Fprintf(streams.Out, "%s: %s, format %s, revision %d of %s: %d objects, %d files of certificates and settings; whole and right\n",
		a.Path, what, a.Format, a.Header.Revision, a.Header.Created.Format(time.RFC3339), a.Objects, a.Files)
	if n := a.Encrypted - a.Sealed; n > 0 {
		fmt.Fprintf(streams.Out, "%d objects are encrypted; their keys are in the file\n", n)
	}
	switch {
	case a.Sealed > 0 && a.Format == backup.FormatEtcd:
		fmt.Fprintf(streams.ErrOut, "Warning: %d objects are encrypted. kube-apiserver reads them with --encryption-provider-config and the "+
			"file encryption/config.yaml of the data folder (or the one that the server was given); keelson backup --format=etcd --decrypt writes them in plain\n", a.Sealed)
	case a.Sealed > 0:
		fmt.Fprintf(streams.ErrOut, "Warning: %d objects are encrypted, and their keys are not in the file: only a server with the same keys can read them\n", a.Sealed)
	}
	if a.Skipped > 0 {
		fmt.Fprintf(streams.ErrOut, "Warning: %d keys outside %s were left out\n", a.Skipped, backup.DefaultPrefix)
	}
}

func (b *backupCommand) run(ctx context.Context, path string) error {
	if b.format != backup.FormatKeelson && b.format != backup.FormatEtcd {
		return fmt.Errorf("--format %q: must be %s or %s", b.format, backup.FormatKeelson, backup.FormatEtcd)
	}
	switch {
	case b.decrypt && b.format != backup.FormatEtcd:
		return errors.New("--decrypt goes with --format=etcd; a backup of Keelson has the keys in it")
	case b.decrypt && (b.noPKI || b.namespace != ""):
		return errors.New("--decrypt needs the keys, which --no-pki and --namespace leave out")
	}
	take := b.online
	if b.offline {
		take = b.fromDataDir
	}
	write := func(tmp string) error {
		a, err := backup.CreateFrom(ctx, tmp, func(w io.Writer) error { return take(ctx, w) })
		if err != nil {
			return err
		}
		return a.Close()
	}
	if b.format == backup.FormatEtcd {
		b.noPKI = !b.decrypt // it has no place for them
		native := write
		write = func(tmp string) error {
			if err := native(tmp + ".keelson"); err != nil {
				return err
			}
			return backup.ConvertToEtcd(ctx, tmp+".keelson", tmp, b.decrypt)
		}
	}
	a, err := backup.Create(ctx, path, write)
	if err != nil {
		return err
	}
	describe(b.streams, a)
	return a.Close()
}

// online asks the server.
func (b *backupCommand) online(ctx context.Context, w io.Writer) error {
	config, err := b.config.ToRESTConfig()
	if err != nil {
		return err
	}
	config = rest.CopyConfig(config)
	config.Timeout = 0 // as long as it takes
	target := apiserver.BackupPKIPath
	if b.noPKI || b.namespace != "" {
		target = apiserver.BackupPath
	}
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	request := clientset.CoreV1().RESTClient().Get().AbsPath(target)
	if b.namespace != "" {
		request.Param("namespace", b.namespace)
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return fmt.Errorf("ask the server for a backup: %w", err)
	}
	defer body.Close()
	_, err = io.Copy(w, body)
	return err
}

// fromDataDir reads the store of a server that does not run.
func (b *backupCommand) fromDataDir(ctx context.Context, w io.Writer) error {
	if err := b.complete(); err != nil {
		return err
	}
	release, err := kernel.Offline(b.Run)
	if err != nil {
		return err
	}
	defer release()
	return kernel.BackupOffline(ctx, b.Data, w, b.namespace, !b.noPKI)
}
