package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/templates"

	"keelson.dev/keelson/core/kernel"
	"keelson.dev/keelson/core/store"
)

func newStoreCommand(streams genericiooptions.IOStreams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Check the server's own store",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	cmd.AddCommand(newStoreCheckCommand(streams))
	return cmd
}

func newStoreCheckCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var d dirs
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read all of a stopped server's store, and say whether it is whole",
		Long: templates.LongDesc(`
			Read all of a stopped server's store, and say whether it is whole: the checksums of all tables and
			records, the order of revisions, the counters, and what lookups find. Each object is decrypted, if
			it is encrypted with Keelson's own keys, and decoded.

			The check works on a copy in the store's folder and removes it; the store stays as it is. The copy
			needs as much space as the store, unless the file system can share blocks. The exit code is 0 if the store is whole and 1 if
			it is not, or could not be checked.`),
		Example: templates.Examples(`
			keelson down
			keelson store check

			# Another data folder
			keelson store check --data-dir /mnt/old/keelson`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := d.complete(); err != nil {
				return err
			}
			report, err := kernel.CheckStore(cmd.Context(), d.Data)
			if err != nil {
				return err
			}
			printReport(streams.Out, report)
			if !report.Whole() {
				return fmt.Errorf("the store in %s is damaged: %d problems. Restore the data folder from a backup, or see docs/store.md",
					d.Data, len(report.Problems)+report.More)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&d.Data, "data-dir", defaultDataDir, "Folder of the server's data")
	d.Run = defaultRunDir
	return cmd
}

func printReport(w io.Writer, r *store.Report) {
	for _, p := range r.Problems {
		fmt.Fprintf(w, "%s: %s\n", p.Where, p.What)
	}
	if r.More > 0 {
		fmt.Fprintf(w, "and %d more problems\n", r.More)
	}
	fmt.Fprintf(w, "Tables: %d\nRecords: %d, with %d bytes of values\n", r.Tables, r.Records, r.Bytes)
	if !r.Whole() {
		return
	}
	fmt.Fprintf(w, "Objects: %d; earlier versions: %d, deletions: %d\n", r.Objects, r.Superseded, r.Deletions)
	fmt.Fprintf(w, "Revision: %d, acknowledged %d, history compacted up to %d\n", r.Revision, r.Acknowledged, r.CompactRevision)
	if r.NotRead > 0 {
		fmt.Fprintf(w, "Not decoded: %d values, which are encrypted with keys that are not in the data folder\n", r.NotRead)
	}
	if r.Acknowledged == 0 && r.Records > 0 {
		fmt.Fprintln(w, "The file HEAD is missing, so a loss of the newest writes cannot be ruled out")
	}
	fmt.Fprintln(w, "The store is whole")
}
