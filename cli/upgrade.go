package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/templates"

	"keelson.dev/keelson/core/kernel"
	"keelson.dev/keelson/core/pluginhost"
)

func init() {
	// Plugins are to be children of the main thread: it is the one that an upgrade leaves.
	if slices.Contains(os.Args[1:], "server") || slices.Contains(os.Args[1:], "agent") {
		runtime.LockOSThread()
	}
}

// runKernel runs a kernel, which may be replaced if this is the main thread.
func runKernel(run func(*kernel.Upgrade) error) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own path: %w", err)
	}
	if unix.Gettid() != os.Getpid() {
		return run(nil)
	}
	return pluginhost.OnMainThread(func() error { return run(&kernel.Upgrade{Program: program, Args: os.Args[1:]}) })
}

// upgradeCheck answers a kernel that asks whether this binary can take its place. args are
// that kernel's.
func upgradeCheck(w io.Writer, args []string) error {
	return kernel.PrintUpgradeCheck(w, checkArgs(args))
}

func checkArgs(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("the kernel's arguments are missing")
	}
	switch args[0] {
	case "server":
		var flags serverFlags
		set := pflag.NewFlagSet("server", pflag.ContinueOnError)
		flags.addFlags(set)
		if err := set.Parse(args[1:]); err != nil {
			return err
		}
		_, err := flags.config()
		return err
	case "agent":
		return newAgentCommand(genericiooptions.NewTestIOStreamsDiscard()).ParseFlags(args[1:])
	}
	return fmt.Errorf("there is no kernel that is started by %q", args[0])
}

func newUpgradeCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var (
		d       dirs
		to      string
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "upgrade [--to FILE]",
		Short: "Put another keelson in the place of the running one; plugins and pods run on",
		Long: templates.LongDesc(`
			Put another binary in the place of the running server's, or agent's, on this machine,
			without an end of its process: plugins and containers run on, and connections to the
			API wait for the new one. Then the built-in plugins are swapped to the new version,
			one by one, each with its own way back.

			The new binary is checked first. One that cannot take over is refused, and nothing is
			changed; if the new one does not start, the old one comes back. The new binary is
			copied to where the running one lies once it works. Without --to it lies there already.`),
		Example: templates.Examples(`
			# The binary of a new release
			keelson upgrade --to ./keelson

			# After a package manager has replaced the file that runs
			keelson upgrade`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("upgrade"); err != nil {
				return err
			}
			if err := d.complete(); err != nil {
				return err
			}
			if to != "" {
				abs, err := filepath.Abs(to)
				if err != nil {
					return fmt.Errorf("--to %q: %w", to, err)
				}
				to = abs
			}
			pid, err := kernel.ServerPID(d.Run)
			if err != nil {
				return err
			}
			if pid == 0 {
				return fmt.Errorf("no server or agent runs on %s: keelson up starts one with this binary; --run-dir names another", d.Run)
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, fmt.Errorf("not done within %s (--timeout); what has begun goes on", timeout))
			defer cancel()
			begin := time.Now()
			err = kernel.AskUpgrade(ctx, d.Run, to, func(line string) { fmt.Fprintf(streams.Out, "  %s\n", line) })
			if err == nil {
				fmt.Fprintf(streams.Out, "Upgraded in %.1f s.\n", time.Since(begin).Seconds())
			}
			return err
		},
	}
	cmd.Flags().StringVar(&d.Data, "data-dir", defaultDataDir, "Folder of the store (not used: it is the running server's)")
	_ = cmd.Flags().MarkHidden("data-dir")
	cmd.Flags().StringVar(&d.Run, "run-dir", defaultRunDir, "Folder of sockets and other files of this boot")
	cmd.Flags().StringVar(&to, "to", "", "The new binary (default: what lies where the running one was started from)")
	cmd.Flags().DurationVar(&timeout, "timeout", 15*time.Minute, "How long to wait until all plugins have come to rest")
	return cmd
}
