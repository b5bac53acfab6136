package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/templates"

	"keelson.dev/keelson/core/encryption"
	"keelson.dev/keelson/core/kernel"
)

// historyWindow is how long the store keeps versions that were overwritten, with
// some time to spare: they are encrypted with the key of their day.
const historyWindow = 10 * time.Minute

func newEncryptionCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var d dirs
	cmd := &cobra.Command{
		Use:   "encryption",
		Short: "Show and rotate the keys that encrypt Secrets in this server's store",
		Long: templates.LongDesc(`
			Show and rotate the keys that encrypt Secrets in the store of this server.

			keelson server encrypts Secrets unless it was told --encrypt-secrets=false. The keys
			are in the folder encryption of the data folder, and in backups beside the certificate
			authority's key. With --encryption-provider-config the keys are yours, and these
			commands have nothing to do.`),
		Args: cobra.NoArgs,
		Run:  func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	cmd.AddCommand(newEncryptionStatus(streams, &d), newEncryptionRotate(streams, &d), newEncryptionPrune(streams, &d))
	for _, sub := range cmd.Commands() {
		d.addFlags(sub.Flags())
	}
	return cmd
}

// encryptionDir is the folder of the keys, which must be there.
func encryptionDir(d *dirs) (string, error) {
	if err := d.complete(); err != nil {
		return "", err
	}
	dir := filepath.Join(d.Data, kernel.EncryptionDir)
	_, err := os.Stat(encryption.File(dir))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s does not exist: no server with its data in %s has encrypted Secrets with a key of its own yet", encryption.File(dir), d.Data)
	}
	return dir, err
}

func newEncryptionStatus(streams genericiooptions.IOStreams, d *dirs) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Tell which keys there are and whether all Secrets use the first",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := encryptionDir(d)
			if err != nil {
				return err
			}
			return printEncryption(streams.Out, dir)
		},
	}
}

// readEncryption reads the keys in use, and how far what is stored has been written with the first of them.
func readEncryption(dir string) (encryption.State, encryption.Progress, error) {
	state, err := encryption.Read(encryption.File(dir))
	if err != nil {
		return state, encryption.Progress{}, err
	}
	progress, err := encryption.ReadProgress(dir)
	return state, progress, err
}

func printEncryption(out io.Writer, dir string) error {
	state, progress, err := readEncryption(dir)
	if err != nil {
		return err
	}
	mode := "encrypted with the first key"
	if !state.Encrypts {
		mode = "not encrypted (--encrypt-secrets=false); the keys read what was written before"
	}
	fmt.Fprintf(out, "New Secrets:  %s\n", mode)
	for i, key := range state.Keys {
		use := "reads"
		if i == 0 && state.Encrypts {
			use = "writes and reads"
		}
		fmt.Fprintf(out, "Key:          %s  %s\n", key, use)
	}
	if progress.Done(state) {
		fmt.Fprintf(out, "Old Secrets:  all %d were written anew, the last %s\n", progress.Secrets, progress.At.Format(time.RFC3339))
	} else {
		fmt.Fprintln(out, "Old Secrets:  to be written anew, by the server as soon as it runs")
	}
	return nil
}

func newEncryptionRotate(streams genericiooptions.IOStreams, d *dirs) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new key, and write all Secrets anew with it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := encryptionDir(d)
			if err != nil {
				return err
			}
			if err := encryption.Rotate(encryption.File(dir)); err != nil {
				return err
			}
			pid, err := kernel.ServerPID(d.Run)
			if err != nil {
				return err
			}
			if pid == 0 {
				fmt.Fprintln(streams.Out, "The new key is first. No server runs: Secrets are written anew at its next start.")
				return nil
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if err := waitWritten(ctx, dir); err != nil {
				return fmt.Errorf("the new key is first, but not all Secrets have been written anew within %s; see keelson encryption status, and the server's log: %w", timeout, err)
			}
			return printEncryption(streams.Out, dir)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "How long to wait until all Secrets are written anew")
	return cmd
}

// waitWritten waits until the server has written all Secrets with the first key.
func waitWritten(ctx context.Context, dir string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		state, progress, err := readEncryption(dir)
		if err != nil {
			return err
		}
		if progress.Done(state) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func newEncryptionPrune(streams genericiooptions.IOStreams, d *dirs) *cobra.Command {
	return &cobra.Command{
		Use:   "prune",
		Short: "Remove the keys that no Secret needs any more",
		Long: templates.LongDesc(`
			Remove all keys but the first. Refused while any Secret, or a version of one that
			the store still keeps for watches, may need another one. Older backups of the store
			need the keys of their day: keep those.`),
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := encryptionDir(d)
			if err != nil {
				return err
			}
			state, progress, err := readEncryption(dir)
			if err != nil {
				return err
			}
			if !progress.Done(state) {
				return errors.New("not all Secrets have been written with the first key yet: start the server, and look at keelson encryption status")
			}
			if wait := time.Until(progress.At.Add(historyWindow)); wait > 0 {
				return fmt.Errorf("the store may still keep older versions of Secrets for watches: try again in %s", wait.Round(time.Second))
			}
			if err := encryption.Prune(encryption.File(dir)); err != nil {
				return err
			}
			return printEncryption(streams.Out, dir)
		},
	}
}
