package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/templates"

	"keelson.dev/keelson/core/kernel"
	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/plugins/dns"
	"keelson.dev/keelson/plugins/exec"
	"keelson.dev/keelson/plugins/kubelet"
	"keelson.dev/keelson/plugins/network"
	"keelson.dev/keelson/plugins/proxy"
	"keelson.dev/keelson/plugins/runtime"
)

// stopGrace is how long the server has to end in good order: its plugins drain
// for 10 s at most.
const stopGrace = 30 * time.Second

func newDownCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var d dirs
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster on this machine; keelson up finds everything as it was",
		Long: templates.LongDesc(`
			Stop the server, its plugins and every container of this node, and take its links,
			rules and mounts away. Objects, images and volumes stay: keelson up starts the
			cluster again as it was.`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("down"); err != nil {
				return err
			}
			if err := d.complete(); err != nil {
				return err
			}
			return down(cmd.Context(), d, streams)
		},
	}
	d.addFlags(cmd.Flags())
	return cmd
}

// down stops all that runs. Each step is tried, whatever became of the others.
func down(ctx context.Context, d dirs, streams genericiooptions.IOStreams) error {
	say := func(what string) { fmt.Fprintf(streams.Out, "  %s\n", what) }
	log := slog.New(slog.NewTextHandler(streams.ErrOut, &slog.HandlerOptions{Level: slog.LevelWarn}))
	ran, err := newService(d).stop(stopGrace)
	if err != nil {
		return err // nothing may be taken from under a running server
	}
	if ran {
		say("Server and plugins stopped")
	} else {
		say("No server was running")
	}
	data, run := pluginDirs(d)
	errs := []error{runtime.StopAll(ctx, data("runtime"), run("runtime"), log), exec.StopAll(ctx, data(""), run(""), log)}
	say("Containers stopped")
	errs = append(errs,
		proxy.Purge(ctx, data("proxy"), run("proxy"), log),
		dns.Purge(ctx, data("dns"), run("dns"), log),
		network.Purge(ctx, data("network"), run("network"), log))
	say("Network removed")
	return errors.Join(errs...)
}

// pluginDirs gives the folders that the plugin host gives to plugins.
func pluginDirs(d dirs) (data, run func(name string) string) {
	return func(name string) string { return pluginhost.PluginDataDir(d.Data, name) },
		func(name string) string { return pluginhost.PluginRunDir(d.Run, name) }
}

func newUninstallCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var d dirs
	var yes bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the cluster from this machine, with all its data",
		Long: templates.LongDesc(`
			Stop the cluster and remove all that is Keelson's from this machine: processes,
			containers, mounts, network links, nftables tables, cgroups, the systemd unit, the
			context in kubeconfigs, and every file, the cluster's data included. Packages that
			were installed with apt-get stay.`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("uninstall"); err != nil {
				return err
			}
			if err := d.complete(); err != nil {
				return err
			}
			if !yes && !confirm(streams, "Remove the cluster and all its data in "+d.Data+"? [y/N] ") {
				return errors.New("nothing was removed; --yes answers the question")
			}
			return uninstall(cmd.Context(), d, streams)
		},
	}
	d.addFlags(cmd.Flags())
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "Do not ask")
	return cmd
}

func confirm(streams genericiooptions.IOStreams, question string) bool {
	fmt.Fprint(streams.Out, question)
	answer, _ := bufio.NewReader(streams.In).ReadString('\n')
	return slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer)))
}

func uninstall(ctx context.Context, d dirs, streams genericiooptions.IOStreams) error {
	if err := down(ctx, d, streams); err != nil {
		fmt.Fprintf(streams.ErrOut, "keelson: %v\n", err) // go on: the purge below tries again
	}
	if pid, err := kernel.ServerPID(d.Run); err != nil || pid != 0 {
		return errors.Join(err, fmt.Errorf("the server, process %d, still runs: stop it first", pid))
	}
	log := slog.New(slog.NewTextHandler(streams.ErrOut, &slog.HandlerOptions{Level: slog.LevelWarn}))
	data, run := pluginDirs(d)
	errs := []error{
		runtime.Purge(ctx, data("runtime"), run("runtime"), log),
		kubelet.Purge(ctx, data("kubelet"), run("kubelet"), log),
		dropKubeconfigs(filepath.Join(d.Data, adminKubeconfig)),
	}
	pluginhost.Purge(ctx, d.Run, kernel.CgroupParent(d.Run), log)
	if err := errors.Join(errs...); err != nil {
		return err // the folders hold what a second try needs
	}
	if d.isDefault() {
		errs = append(errs, removeUnit(), removeLink(d))
	}
	errs = append(errs, removeCopies(filepath.Join(d.Data, "plugins.d")), removeOwn(d.Run, ownInRun), removeOwn(d.Data, ownInData))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintln(streams.Out, "  Files removed\nKeelson is gone from this machine.")
	return nil
}

// What a server, an agent and their plugins make in the two folders; patterns of
// path.Match. Whatever else lies there is not ours to remove.
var (
	ownInData = []string{
		"store", "pki", "plugins", "logs", "review", "bin", "server.log", settingsFile, adminKubeconfig, kernel.ClusterFile,
		kernel.IdentityFile, kernel.EncryptionDir, ".restore-*", "restore-pending", "before-restore-*",
		"." + settingsFile + "-*", "." + adminKubeconfig + "-*", "." + kernel.ClusterFile + "-*", "." + kernel.IdentityFile + "-*",
	}
	ownInRun = []string{"plugins", "host", "*.sock", ".*.sock*", kernel.PIDFile}
)

// removeOwn removes what is ours in a folder, and the folder if that leaves it empty:
// --data-dir may have named a folder with other things in it. It never crosses into a
// mount that is still there: removing that would destroy what is mounted.
func removeOwn(dir string, own []string) error {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer func() { _ = mounts.Close() }()
	if left := mountsBelow(mounts, dir); len(left) > 0 {
		return fmt.Errorf("%s: still mounted, so nothing there was removed: umount %s", dir, strings.Join(left, " "))
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	var others []string
	for _, entry := range entries {
		if !slices.ContainsFunc(own, func(pattern string) bool { ok, _ := path.Match(pattern, entry.Name()); return ok }) {
			others = append(others, entry.Name())
			continue
		}
		errs = append(errs, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(others) > 0 {
		return fmt.Errorf("%s: not removed, since it holds what Keelson did not make: %s", dir, strings.Join(others, ", "))
	}
	if err := os.Remove(dir); !errors.Is(err, unix.EBUSY) { // busy: a disk is mounted there, which stays
		return err
	}
	return nil
}

// mountsBelow reads mountinfo (proc(5)) for mount points in dir, other than dir itself.
func mountsBelow(mountinfo io.Reader, dir string) []string {
	var found []string
	for scan := bufio.NewScanner(mountinfo); scan.Scan(); {
		if fields := strings.Fields(scan.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			found = append(found, fields[4])
		}
	}
	return found
}

func removeUnit() error {
	err := os.Remove(unitPath)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func removeLink(d dirs) error {
	if target, err := os.Readlink(linkPath); err != nil || target != (&service{dirs: d}).binary() {
		return nil //nolint:nilerr // not there, or not ours
	}
	return os.Remove(linkPath)
}
