// Command keelson is the whole cluster in one binary: kubectl's commands, the
// kernel (server, agent), the commands that start and remove a cluster, and,
// re-executed by the kernel, each built-in plugin.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"keelson.dev/keelson/core/kernel"
	"keelson.dev/keelson/core/pluginverify"
	"keelson.dev/keelson/core/version"
	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/network/cni"
)

func main() {
	if cni.Called(os.Args[0], os.Getenv) {
		os.Exit(cni.Main(os.Args[0], os.Getenv, os.Stdin, os.Stdout))
	}
	// The kernel starts plugins this way; no command tree is built for them.
	if len(os.Args) > 1 && os.Args[1] == pluginRunCommand {
		runPlugin(os.Args[2:])
		return
	}
	// keelson plugins verify executes the binary again for the suite of the contract.
	if len(os.Args) > 1 && os.Args[1] == pluginverify.SuiteCommand {
		pluginverify.SuiteMain(os.Args[2:])
		return
	}
	// A kernel asks the binary that is to take its place.
	if len(os.Args) > 1 && os.Args[1] == kernel.UpgradeCheckCommand {
		fail(upgradeCheck(os.Stdout, os.Args[2:]))
		return
	}
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	useAdminKubeconfig()
	if filepath.Base(os.Args[0]) == "kubectl" {
		fail(cli.RunNoErrOutput(newKubectl(streams, os.Args)))
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "kubectl" {
		os.Args = append([]string{"kubectl"}, os.Args[2:]...)
		fail(cli.RunNoErrOutput(newKubectl(streams, os.Args)))
		return
	}
	fail(cli.RunNoErrOutput(newRoot(streams)))
}

// fail ends the process as kubectl does: with the error on stderr and its exit code.
func fail(err error) {
	if err != nil {
		cmdutil.CheckErr(err)
	}
}

// pluginRunCommand is the first argument of a built-in plugin's process.
const pluginRunCommand = "plugin-run"

// runPlugin is the whole life of a built-in plugin's process.
func runPlugin(args []string) {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "keelson plugin-run NAME is how the kernel starts a built-in plugin; people use keelson plugins")
		os.Exit(2)
	}
	plugin, ok := builtin(args[0])
	if !ok {
		fmt.Fprintf(os.Stderr, "keelson plugin-run: unknown built-in plugin %q; there are %s\n", args[0], builtinNames())
		os.Exit(2)
	}
	plugin.Version = version.Build()
	kit.Main(plugin) // arguments after the name are the Plugin object's, for the plugin to read
}
