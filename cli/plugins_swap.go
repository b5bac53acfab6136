package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"keelson.dev/keelson/core/pluginverify"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// defaultPluginDir is the server's --plugin-dir unless that says otherwise.
const defaultPluginDir = defaultDataDir + "/plugins.d"

// swapOptions are the flags of swap.
type swapOptions struct {
	waitOptions
	path, config, dir      string
	node                   string
	builtIn, again, accept bool
	shadow                 bool
	args                   []string
	watch                  time.Duration
}

func (p *pluginsCommand) swap() *cobra.Command {
	var o swapOptions
	cmd := p.named(&cobra.Command{
		Use:   "swap NAME",
		Short: "Put another program, or another configuration, in a plugin's place",
		Long: `Put another program, another configuration or other arguments in the place of a
running plugin, and wait for the outcome: either the new one takes over, and the time
for which nobody was active is printed; or the old one goes on, the reason is printed,
and the exit code is 1.

A file outside of the server's plugin folder is copied into it, under a name that ends
with its checksum, so that the program that runs now stays for the way back. A plugin
of that name that there is not yet is made, of the kind that the program describes.

For --watch after the new one took over the old one stays: if the new one fails in that
time, the old one comes back by itself. --wait waits for that too.`,
		Example: `  # A scheduler of one's own, with the rights that it asks for
  keelson plugins swap scheduler --path ./my-scheduler --accept

  # Another configuration
  keelson plugins swap dns --config dns.yaml

  # Back to what came with Keelson
  keelson plugins swap scheduler --built-in

  # What decides beside it as its shadow
  keelson plugins swap scheduler --shadow --accept

  # Try once more what was refused or rolled back
  keelson plugins swap scheduler --again`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.watchGiven, o.argsGiven = cmd.Flags().Changed("watch"), cmd.Flags().Changed("arg")
			return p.doSwap(cmd.Context(), args[0], o)
		},
	})
	f := cmd.Flags()
	f.StringVar(&o.path, "path", "", "File of the new program")
	f.BoolVar(&o.builtIn, "built-in", false, "Take the program of that name that is linked into keelson")
	f.StringVar(&o.config, "config", "", "File with the new configuration, in YAML or JSON; - for none")
	f.StringArrayVar(&o.args, "arg", nil, "Argument for the program (repeatable; replaces the earlier ones)")
	f.BoolVar(&o.again, "again", false, "Try the revision of the spec again that was refused or rolled back")
	f.StringVar(&o.node, "node", "", "With --again: only on that node (default: on every one)")
	f.BoolVar(&o.shadow, "shadow", false, "Put the plugin's shadow in its place")
	f.BoolVar(&o.accept, "accept", false, "Accept the rights that the program asks for")
	f.DurationVar(&o.watch, "watch", 0, "How long the old one stays to come back (as it was; 30s at first)")
	f.StringVar(&o.dir, "plugin-dir", defaultPluginDir, "The server's plugin folder")
	cmd.MarkFlagsMutuallyExclusive("path", "built-in")
	cmd.MarkFlagsMutuallyExclusive("again", "path")
	cmd.MarkFlagsMutuallyExclusive("again", "built-in")
	for _, other := range []string{"path", "built-in", "again", "config", "arg"} {
		cmd.MarkFlagsMutuallyExclusive("shadow", other)
	}
	o.addFlags(cmd)
	return cmd
}

func (p *pluginsCommand) doSwap(ctx context.Context, name string, o swapOptions) error {
	plugins, err := p.client()
	if err != nil {
		return err
	}
	if o.path == "" && !o.builtIn && o.config == "" && !o.argsGiven && !o.again && !o.watchGiven && !o.shadow {
		return errors.New("say what to swap in: --path FILE, --built-in, --config FILE, --arg ARG, --shadow or --again")
	}
	if o.node != "" && !o.again {
		return errors.New("--node: goes with --again alone: the spec of a plugin is the same on every node")
	}
	if o.again {
		if err := plugins.Swap(ctx, name, &v1alpha1.PluginSwap{ObjectMeta: metav1.ObjectMeta{Name: name}, Again: true, Node: o.node}); err != nil {
			return err
		}
		if o.node != "" {
			fmt.Fprintf(p.Out, "plugin %s is tried again on node %s: keelson plugins inspect %[1]s tells what became of it\n", name, o.node)
			return nil
		}
		now, err := plugins.Get(ctx, name)
		if err != nil {
			return err
		}
		return p.outcome(ctx, plugins, now, true, o.waitOptions)
	}
	edit, kind, err := p.swapEdit(ctx, name, o)
	if err == nil && o.shadow {
		own := edit
		var promote func(*v1alpha1.Plugin) error
		promote, err = p.promoteEdit(ctx, plugins, name, o.accept)
		edit = func(obj *v1alpha1.Plugin) error { return errors.Join(own(obj), promote(obj)) }
	}
	if err != nil {
		return err
	}
	now, changed, err := change(ctx, plugins, name, edit)
	if apierrors.IsNotFound(err) && kind != "" {
		made := &v1alpha1.Plugin{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.PluginSpec{Kind: kind}}
		if err = edit(made); err == nil {
			changed = true
			now, err = plugins.Create(ctx, made)
		}
	}
	if err != nil {
		return err
	}
	return p.outcome(ctx, plugins, now, changed, o.waitOptions)
}

// swapEdit is what to write into the object. kind is that of a program by path.
func (p *pluginsCommand) swapEdit(ctx context.Context, name string, o swapOptions) (edit func(*v1alpha1.Plugin) error, kind string, err error) {
	var config *runtime.RawExtension
	if o.config != "" && o.config != "-" {
		raw, err := readConfig(o.config)
		if err != nil {
			return nil, "", err
		}
		config = &runtime.RawExtension{Raw: raw}
	}
	var found *program
	if o.path != "" {
		if found, err = p.install(ctx, name, o); err != nil {
			return nil, "", err
		}
		kind = found.kind
	}
	return func(obj *v1alpha1.Plugin) error {
		s := &obj.Spec
		if o.builtIn {
			if !s.Source.BuiltIn {
				s.Args = nil // they were another program's
			}
			s.Source, s.Rules = v1alpha1.PluginSource{BuiltIn: true}, nil
		}
		if o.config != "" {
			s.Config = config
		}
		if o.argsGiven {
			s.Args = o.args
		}
		if o.watchGiven {
			if s.Swap == nil {
				s.Swap = &v1alpha1.PluginSwapPolicy{}
			}
			seconds := int32(o.watch / time.Second)
			s.Swap.WatchSeconds = &seconds
		}
		if found == nil {
			return nil
		}
		s.Source = found.source
		return p.acceptFound(obj, found, o.accept)
	}, kind, nil
}

// acceptFound puts the program's rules into the object, if that is wanted, and else wants
// them to be there.
func (p *pluginsCommand) acceptFound(obj *v1alpha1.Plugin, found *program, accept bool) error {
	if obj.Spec.Kind != found.kind {
		return fmt.Errorf("plugin %s is of kind %q, the program of kind %q", obj.Name, obj.Spec.Kind, found.kind)
	}
	if len(beyond(found.rules, obj.Spec.Rules)) == 0 {
		return nil
	}
	printRules(p.Out, "asked for", found.rules)
	if len(obj.Spec.Rules) > 0 {
		printRules(p.Out, "accepted so far", obj.Spec.Rules)
	}
	if !accept {
		return fmt.Errorf("the program asks for rights that nobody has accepted: --accept accepts them")
	}
	obj.Spec.Rules = found.rules
	return nil
}

// program is a file that lies where the kernel may start it.
type program struct {
	source v1alpha1.PluginSource
	kind   string
	rules  []rule
}

// install looks at a program and copies it into the plugin folder.
func (p *pluginsCommand) install(ctx context.Context, name string, o swapOptions) (*program, error) {
	path, err := filepath.Abs(o.path)
	if err != nil {
		return nil, err
	}
	sum, err := pluginverify.Sum(path)
	if err != nil {
		return nil, fmt.Errorf("--path: %w", err)
	}
	if err := p.serverIsHere(); err != nil {
		return nil, fmt.Errorf("%w: copy %s into the server's plugin folder, and change spec.source of plugin %s to that path and sha256 %s", err, path, name, sum)
	}
	quietGRPC()
	d, err := pluginverify.Describe(ctx, pluginverify.Program{Path: path, Args: o.args})
	if err != nil {
		return nil, fmt.Errorf("--path: %w", err)
	}
	if d.GetName() != name {
		return nil, fmt.Errorf("--path %s: the program is plugin %q, not %q", o.path, d.GetName(), name)
	}
	if !strings.HasPrefix(path, filepath.Clean(o.dir)+"/") {
		if path, err = copyProgram(path, o.dir, name, sum); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(p.Out, "program %s %s: %s\n", d.GetName(), d.GetVersion(), path)
	return &program{source: v1alpha1.PluginSource{Path: path, SHA256: sum}, kind: d.GetKind(), rules: rulesOf(d)}, nil
}

// sumDigits are how many digits of its checksum the name of a copied program ends with.
const sumDigits = 12

// removeCopies removes the programs that swap has copied into a plugin folder, and the
// folder if that leaves it empty. Others are not ours to remove.
func removeCopies(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	left := len(entries)
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !e.Type().IsRegular() || len(e.Name()) <= sumDigits {
			continue
		}
		if sum, err := pluginverify.Sum(path); err != nil || !strings.HasSuffix(e.Name(), "-"+sum[:sumDigits]) {
			continue
		}
		left--
		errs = append(errs, os.Remove(path))
	}
	if left == 0 {
		errs = append(errs, os.Remove(dir))
	}
	return errors.Join(errs...)
}

// copyProgram copies a program into the plugin folder, unless it is there.
func copyProgram(from, dir, name, sum string) (string, error) {
	to := filepath.Join(dir, name+"-"+sum[:sumDigits])
	if have, err := pluginverify.Sum(to); err == nil && have == sum {
		return to, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("--plugin-dir %s: %w", dir, err)
	}
	in, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }()
	out, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return "", fmt.Errorf("--plugin-dir %s: %w", dir, err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close()); err == nil {
		err = os.Rename(out.Name(), to)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("copy %s to %s: %w", from, to, err), os.Remove(out.Name()))
	}
	return to, nil
}

// serverIsHere says whether the cluster's server is this machine: its address is one of
// this machine's.
func (p *pluginsCommand) serverIsHere() error {
	cfg, err := p.config.ToRESTConfig()
	if err != nil {
		return err
	}
	host := cfg.Host
	if u, err := url.Parse(cfg.Host); err == nil && u.Host != "" {
		host = u.Hostname()
	}
	ips, err := net.LookupIP(host)
	if err != nil {
		return fmt.Errorf("server %s: %w", host, err)
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, ip := range ips {
		if ip.IsLoopback() {
			return nil
		}
		for _, a := range own {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
				return nil
			}
		}
	}
	return fmt.Errorf("the server %s is not this machine", host)
}
