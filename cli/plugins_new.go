package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"keelson.dev/keelson/cli/scaffold"
)

func newPluginsNew(streams genericiooptions.IOStreams) *cobra.Command {
	var o scaffold.Options
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Write a plugin to begin with: it builds, passes its tests and runs",
		Long: `Write the source of a plugin into a folder: a program that does something small,
its configuration with defaults and checks, tests, a Plugin object, a Makefile and a
page about it. It passes the suite of its kind. NAME is the name of the Plugin object;
to take the place of a built-in plugin, give its name and kind. In JavaScript there is
the controller.

A plugin in Go is built against a checkout of Keelson's source, which is found above
this folder or the program, or named by --keelson.`,
		Example: `  # A controller of one's own
  keelson plugins new night-watch --kind controller

  # One that can take the scheduler's place
  keelson plugins new scheduler --kind scheduler --dir my-scheduler

  # One that the API server asks about each request that it wants to see
  keelson plugins new guard --kind admission

  # The same contract from JavaScript
  keelson plugins new night-watch --kind controller --lang node`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			o.Name = args[0]
			if o.Dir == "" {
				o.Dir = o.Name
			}
			files, err := scaffold.Write(o)
			if err != nil {
				return err
			}
			fmt.Fprintf(streams.Out, "%s: %s\n", o.Dir, strings.Join(files, ", "))
			fmt.Fprintf(streams.Out, "Next: cd %s; make test verify; make swap on the server\n", o.Dir)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Kind, "kind", "controller", "Kind of the plugin: "+strings.Join(scaffold.Kinds(), ", ")+", or a word of your own, which gets the controller")
	f.StringVar(&o.Lang, "lang", "go", "Language: go or node")
	f.StringVar(&o.Dir, "dir", "", "Folder to write; must not exist or be empty (default: NAME)")
	f.StringVar(&o.Keelson, "keelson", "", "Checkout of Keelson's source (default: looked for above this folder and the program)")
	if err := cmd.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(scaffold.Kinds(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag: a mistake in this file
	}
	if err := cmd.RegisterFlagCompletionFunc("lang", cobra.FixedCompletions([]string{"go", "node"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
	return cmd
}
