package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/util/homedir"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/options"
	"k8s.io/kubectl/pkg/cmd/plugin"
	"k8s.io/kubectl/pkg/util/templates"

	"keelson.dev/keelson/core/version"
)

// newKubectl is kubectl as upstream publishes it, extensions in PATH included.
func newKubectl(streams genericiooptions.IOStreams, args []string) *cobra.Command {
	return kubectl.NewDefaultKubectlCommandWithArgs(kubectlOptions(streams, args))
}

func kubectlOptions(streams genericiooptions.IOStreams, args []string) kubectl.KubectlOptions {
	return kubectl.KubectlOptions{
		PluginHandler: kubectl.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     args,
		ConfigFlags: genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().
			WithDiscoveryBurst(300).WithDiscoveryQPS(50).WithWarningPrinter(streams),
		IOStreams: streams,
	}
}

// newRoot is keelson's command tree: kubectl's commands, and our own before them.
func newRoot(streams genericiooptions.IOStreams) *cobra.Command {
	opts := kubectlOptions(streams, os.Args)
	root := kubectl.NewKubectlCommand(opts)
	root.Use = "keelson"
	root.Short = "A Kubernetes-compatible cluster in one binary"
	root.Long = templates.LongDesc(`
		keelson is a Kubernetes-compatible cluster in one binary, and kubectl.

		keelson up starts a cluster on this machine. All of kubectl's commands work on
		it, here and under the name kubectl (keelson kubectl, or a link named kubectl).`)
	kubernetes := root.Commands()

	cluster := []*cobra.Command{
		newUpCommand(streams), newDownCommand(streams), newUninstallCommand(streams),
		newServerCommand(streams), newAgentCommand(streams), newUpgradeCommand(streams),
		newBackupCommand(streams, opts.ConfigFlags), newRestoreCommand(streams, opts.ConfigFlags), newDatastoreCommand(streams), newStoreCommand(streams), newSimCommand(streams, opts.ConfigFlags),
	}
	node := []*cobra.Command{newPluginsCommand(streams, opts.ConfigFlags), newImageCommand(streams), newEncryptionCommand(streams), newWhyCommand(streams, opts.ConfigFlags)}
	root.AddCommand(cluster...)
	root.AddCommand(node...)
	root.AddCommand(&cobra.Command{
		Use:                "kubectl",
		Short:              "Run kubectl as upstream publishes it",
		DisableFlagParsing: true, // main looks for it before this tree is built
		Run:                func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	})
	for _, c := range root.Commands() {
		if c.Name() == "version" {
			c.Long = "Print the client's version, the server's, and the build of this binary (" + version.Build() + ")."
		}
	}
	groups := templates.CommandGroups{
		{Message: "Cluster:", Commands: cluster},
		{Message: "Plugins and images:", Commands: node},
		{Message: "Kubernetes (as kubectl):", Commands: kubernetes},
	}
	templates.ActsAsRootCommand(root, []string{"options"}, groups...)
	root.AddCommand(options.NewCmdOptions(streams.Out))
	return root
}

// useAdminKubeconfig lets root work on the node without any setting: where no
// kubeconfig is named and none lies in the home folder, the server's own is used.
func useAdminKubeconfig() {
	if os.Getenv("KUBECONFIG") != "" {
		return
	}
	if _, err := os.Stat(filepath.Join(homedir.HomeDir(), ".kube", "config")); err == nil {
		return
	}
	admin := filepath.Join(defaultDataDir, adminKubeconfig)
	if file, err := os.Open(admin); err == nil {
		_ = file.Close()
		_ = os.Setenv("KUBECONFIG", admin)
	}
}
