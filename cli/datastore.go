package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/templates"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/etcd"
	"keelson.dev/keelson/core/kernel"
)

func newDatastoreCommand(streams genericiooptions.IOStreams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "datastore",
		Short: "Move a cluster between the server's own store and an etcd",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	cmd.AddCommand(newMigrateCommand(streams))
	return cmd
}

func newMigrateCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var (
		d      dirs
		to     string
		margin uint64
		o      etcd.Options
	)
	cmd := &cobra.Command{
		Use:   "migrate --to etcd|badger --etcd-servers URL",
		Short: "Move all objects to an etcd, or from an etcd into the server's own store",
		Long: templates.LongDesc(`
			Move all objects to an etcd that has none yet, or from an etcd into the server's own store. The
			server has to be stopped; containers go on. Revisions never go back, so clients notice nothing but
			that they have to list anew.`),
		Example: templates.Examples(`
			keelson down
			keelson datastore migrate --to etcd --etcd-servers http://192.0.2.20:2379
			keelson up --datastore etcd --etcd-servers http://192.0.2.20:2379`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := d.complete(); err != nil {
				return err
			}
			release, err := kernel.Offline(d.Run)
			if err != nil {
				return err
			}
			defer release()
			o.Log = slog.New(slog.NewTextHandler(streams.ErrOut, &slog.HandlerOptions{Level: slog.LevelWarn}))
			var moved *kernel.Moved
			switch to {
			case apiserver.DatastoreEtcd:
				moved, err = kernel.MigrateToEtcd(cmd.Context(), d.Data, o)
			case apiserver.DatastoreBadger:
				moved, err = kernel.MigrateToBadger(cmd.Context(), d.Data, o, margin, o.Log)
			default:
				return fmt.Errorf("--to %q: must be %s or %s", to, apiserver.DatastoreEtcd, apiserver.DatastoreBadger)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(streams.Out, "Moved %d objects; the new datastore is at revision %d\n", moved.Objects, moved.Revision)
			if moved.Aside != "" {
				fmt.Fprintf(streams.Out, "What was there before is in %s\n", moved.Aside)
			}
			fmt.Fprintf(streams.Out, "Start the server with --datastore=%s\n", to)
			return nil
		},
	}
	d.addFlags(cmd.Flags())
	o.Prefix = etcd.DefaultPrefix
	apiserver.AddEtcdFlags(cmd.Flags(), &o)
	cmd.Flags().StringVar(&to, "to", "", "Where the objects go: etcd or badger")
	cmd.Flags().Uint64Var(&margin, "bump-revision", backup.DefaultMargin, "With --to badger: how far above the etcd's revision the store begins")
	return cmd
}
