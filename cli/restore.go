package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/kubectl/pkg/util/templates"

	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/encryption"
	"keelson.dev/keelson/core/kernel"
	"keelson.dev/keelson/core/registry"
)

// restoreCommand restores a cluster, or objects into a running one.
type restoreCommand struct {
	dirs
	format    string
	namespace string
	object    string
	dryRun    bool
	keep      bool
	keys      string
	whole     backup.RestoreOptions
	config    *genericclioptions.ConfigFlags
	streams   genericiooptions.IOStreams
}

func newRestoreCommand(streams genericiooptions.IOStreams, config *genericclioptions.ConfigFlags) *cobra.Command {
	r := restoreCommand{config: config, streams: streams}
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Restore a cluster, a namespace or an object from a backup or a snapshot of etcd",
		Long: templates.LongDesc(`
			Restore a whole cluster into --data-dir, on which no server runs: objects, certificates and settings.
			A cluster that is there is refused, or moved aside with --force. The restored
			store begins above every revision that was ever given, so clients read anew.

			With --namespace or --object, objects are written through the API of a running
			server: missing ones are created, others get the backup's content.

			The file is verified before anything is touched.`),
		Example: templates.Examples(`
			# The whole cluster, then start it
			keelson restore cluster.keelson && keelson up

			# What was deleted by mistake
			keelson restore cluster.keelson --namespace shop --dry-run
			keelson restore cluster.keelson --object deployment/shop/web`),
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), args[0]) },
	}
	flags := cmd.Flags()
	r.addFlags(flags)
	flags.StringVar(&r.format, "format", "", "Format that the file must have, keelson or etcd (default: found out)")
	flags.StringVarP(&r.namespace, "namespace", "n", "", "Write the objects of this namespace through the API")
	flags.StringVar(&r.object, "object", "", "Write one object through the API: KIND/NAMESPACE/NAME, or KIND/NAME without a namespace")
	flags.BoolVar(&r.dryRun, "dry-run", false, "With --namespace or --object: let the server check all and write nothing")
	flags.BoolVar(&r.keep, "keep-existing", false, "With --namespace or --object: leave objects that exist as they are")
	flags.StringVar(&r.keys, "encryption-keys", "", "With --namespace or --object: Keelson's encryption/config.yaml, for Secrets in a file without it")
	flags.BoolVar(&r.whole.Force, "force", false, "Move a cluster that is in the data folder aside")
	flags.BoolVar(&r.whole.NoPKI, "no-pki", false, "Leave certificates, keys and settings as they are")
	flags.Uint64Var(&r.whole.Margin, "bump-revision", backup.DefaultMargin, "How far above the backup's revision the store begins")
	return cmd
}

func (r *restoreCommand) run(ctx context.Context, path string) (err error) {
	if r.format != "" && r.format != backup.FormatKeelson && r.format != backup.FormatEtcd {
		return fmt.Errorf("--format %q: must be %s or %s", r.format, backup.FormatKeelson, backup.FormatEtcd)
	}
	partial := r.namespace != "" || r.object != ""
	switch {
	case !partial && (r.dryRun || r.keep || r.keys != ""):
		return errors.New("--dry-run, --keep-existing and --encryption-keys go with --namespace or --object")
	case partial && (r.whole.Force || r.whole.NoPKI):
		return errors.New("--force and --no-pki go with the restoring of a whole cluster, not with --namespace or --object")
	case r.whole.Margin == 0:
		return errors.New("--bump-revision 0: must be at least 1, or revisions would be given twice")
	}
	a, err := backup.Open(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if r.format != "" && r.format != a.Format {
		return fmt.Errorf("--format %s: %s has format %s", r.format, path, a.Format)
	}
	describe(r.streams, a)
	if r.keys != "" {
		data, err := os.ReadFile(r.keys)
		if err != nil {
			return fmt.Errorf("--encryption-keys: %w", err)
		}
		if a.Keys, err = encryption.NewReader(r.keys, data); err != nil {
			return fmt.Errorf("--encryption-keys: %w", err)
		}
	}
	if partial {
		return r.throughAPI(ctx, a)
	}
	if err := r.complete(); err != nil {
		return err
	}
	release, err := kernel.Offline(r.Run)
	if err != nil {
		return err
	}
	defer release()
	r.whole.DataDir, r.whole.Log = r.Data, slog.New(slog.NewTextHandler(r.streams.ErrOut, &slog.HandlerOptions{Level: slog.LevelWarn}))
	done, err := backup.Restore(ctx, a, r.whole)
	if err != nil {
		return err
	}
	if done.Aside != "" {
		fmt.Fprintf(r.streams.Out, "What was there before is in %s\n", done.Aside)
	}
	fmt.Fprintf(r.streams.Out, "Restored into %s; the store begins at revision %d\n", r.Data, done.Revision)
	return nil
}

func (r *restoreCommand) throughAPI(ctx context.Context, a *backup.Archive) error {
	config, err := r.config.ToRESTConfig()
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	mapper, err := r.config.ToRESTMapper()
	if err != nil {
		return err
	}
	p := backup.Partial{
		Client: client, Mapper: mapper, Decoder: registry.Codecs.UniversalDeserializer(), Namespace: r.namespace, Object: r.object, DryRun: r.dryRun, KeepExisting: r.keep,
		Report: func(line string) { fmt.Fprintln(r.streams.Out, line) },
	}
	return p.Run(ctx, a)
}
