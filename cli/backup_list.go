package main

import (
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"keelson.dev/keelson/core/backup"
)

// newListCommand lists the backups in a folder.
func newListCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var d dirs
	var verify bool
	cmd := &cobra.Command{
		Use:   "list [DIR]",
		Short: "List the backups in a folder, by default that of --backup-schedule",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := ""
			if len(args) > 0 {
				dir = args[0]
			} else {
				if err := d.complete(); err != nil {
					return err
				}
				var err error
				if dir, err = keptBackupDir(d.Data); err != nil {
					return err
				}
			}
			all, err := backup.List(cmd.Context(), dir, verify)
			if err != nil {
				return err
			}
			return printBackups(streams.Out, dir, all, verify)
		},
	}
	d.addFlags(cmd.Flags())
	cmd.Flags().Lookup("data-dir").Usage = "Data folder of the cluster whose --backup-dir is meant"
	if err := cmd.Flags().MarkHidden("run-dir"); err != nil {
		panic(err) // no such flag: a mistake in this file
	}
	cmd.Flags().BoolVar(&verify, "verify", false, "Read all of each, and say whether it is whole")
	return cmd
}

// keptBackupDir is the --backup-dir of the last keelson up.
func keptBackupDir(data string) (string, error) {
	last, err := readSettings(data)
	if err != nil {
		return "", err
	}
	if last != nil {
		if kept := last.API["backup-dir"]; len(kept) > 0 && kept[0] != "" {
			return kept[0], nil
		}
	}
	return "", fmt.Errorf("the cluster of %s was not started with --backup-dir: name the folder, as in: keelson backup list DIR", data)
}

// printBackups prints a table, and returns an error if one of them cannot be used.
func printBackups(out io.Writer, dir string, all []backup.Listed, verify bool) error {
	if len(all) == 0 {
		fmt.Fprintf(out, "No backups in %s\n", dir)
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tTAKEN\tREVISION\tSIZE\tOF\tSTATE")
	bad := 0
	for i := range all {
		l := &all[i]
		taken, revision, what, state := "-", "-", "-", "not read whole"
		if l.Header.Revision > 0 {
			taken, revision, what = l.Header.Created.UTC().Format(time.RFC3339), fmt.Sprint(l.Header.Revision), "cluster"
		}
		if l.Header.Namespace != "" {
			what = "namespace " + l.Header.Namespace
		}
		switch {
		case l.Err != nil:
			bad++
			state = "damaged"
		case verify:
			state = "whole"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", filepath.Base(l.Path), taken, revision, size(l.Bytes), what, state)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d backups in %s cannot be used; keelson backup verify says why", bad, len(all), dir)
	}
	return nil
}

// size prints bytes in the units of Kubernetes.
func size(n int64) string {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}} {
		if n >= unit.bytes {
			return fmt.Sprintf("%.1f%s", float64(n)/float64(unit.bytes), unit.name)
		}
	}
	return fmt.Sprint(n)
}
