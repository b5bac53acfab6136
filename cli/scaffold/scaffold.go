// Package scaffold writes a plugin to begin with: what `keelson plugins new` does. The
// folders beside this file are the examples that it writes, and are built and tested as
// they stand here; only names and kinds are put in.
package scaffold

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

//go:embed admission authentication authorization controller network runtime scheduler storage
//go:embed node/README.md node/health.proto node/index.js node/index.test.js node/keelson.js node/package.json node/package-lock.json
//go:embed make
var examples embed.FS

// module is what a checkout's go.mod names.
const module = "keelson.dev/keelson"

// Options say what to write.
type Options struct {
	// Name of the plugin, a DNS label.
	Name string
	// Kind, a DNS label. One without an example of its own gets the controller.
	Kind string
	// Lang is "go" or "node".
	Lang string
	// Dir is the folder to write, made if need be. What is in it is not touched: it has
	// to be empty.
	Dir string
	// Keelson is a checkout of Keelson's source, for Go; empty: looked for.
	Keelson string
}

// example is a folder beside this file, of the kind of its name.
type example struct {
	kind string
	// name that it has there.
	name string
	// verify are flags with which keelson plugins verify runs the suite of its kind.
	verify string
}

// inGo are the examples in Go, by their kinds. The first one is for kinds that have none:
// those that need the base contract alone.
var inGo = []example{
	{kind: "controller", name: "namespace-labels"},
	{kind: "scheduler", name: "scheduler"},
	{kind: "admission", name: "key-guard", verify: "--activate --examples examples.yaml"},
	{kind: "authentication", name: "token-list", verify: "--activate --config config.yaml --examples examples.yaml"},
	{kind: "authorization", name: "reader-list", verify: "--activate --config config.yaml --examples examples.yaml"},
	{kind: "network", name: "flat-network", verify: "--activate --config config.yaml"},
	{kind: "runtime", name: "cri-gate", verify: "--activate --config config.yaml"},
	{kind: "storage", name: "host-folders", verify: "--activate"},
}

// Kinds have an example in Go.
func Kinds() []string {
	var kinds []string
	for _, e := range inGo {
		kinds = append(kinds, e.kind)
	}
	return kinds
}

// find is the example of a kind.
func find(kind string) example {
	if at := slices.IndexFunc(inGo, func(e example) bool { return e.kind == kind }); at >= 0 {
		return inGo[at]
	}
	return inGo[0]
}

// Write writes the plugin and names its files.
func Write(o Options) ([]string, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	files, err := o.render()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	var names []string
	for name, text := range files {
		names = append(names, name)
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		path := filepath.Join(o.Dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			return nil, err
		}
	}
	slices.Sort(names)
	return names, nil
}

func (o *Options) check() error {
	for _, v := range []struct{ what, value string }{{"name", o.Name}, {"--kind", o.Kind}} {
		if faults := validation.IsDNS1123Label(v.value); len(faults) > 0 {
			return fmt.Errorf("%s %q: %s", v.what, v.value, strings.Join(faults, "; "))
		}
	}
	switch o.Lang {
	case "go", "node":
	default:
		return fmt.Errorf("--lang %q: must be go or node", o.Lang)
	}
	if o.Lang == "node" && find(o.Kind) != inGo[0] {
		return fmt.Errorf("--lang node: the example in JavaScript is a controller; of kind %s there is one in Go", o.Kind)
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--dir: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("--dir %s: is not empty, and nothing is overwritten", o.Dir)
	}
	return nil
}

// render gives the files by their names.
func (o *Options) render() (map[string]string, error) {
	from := find(o.Kind)
	put := o.replacer(from)
	if o.Lang == "node" {
		from.kind = "node" // its folder
	}
	files := map[string]string{}
	entries, err := fs.ReadDir(examples, from.kind)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		text, err := fs.ReadFile(examples, from.kind+"/"+e.Name())
		if err != nil {
			return nil, err
		}
		files[e.Name()] = put.Replace(string(text))
	}
	for name, file := range map[string]string{"Makefile": "make/" + o.Lang + ".mk", "plugin.yaml": "make/plugin.yaml"} {
		text, err := fs.ReadFile(examples, file)
		if err != nil {
			return nil, err
		}
		files[name] = strings.NewReplacer("NAME", o.Name, "KIND", o.Kind, " VERIFY", strings.TrimRight(" "+from.verify, " ")).Replace(string(text))
	}
	if o.Lang == "node" {
		files["proto/health.proto"], files["proto/plugin.proto"] = files["health.proto"], pluginv1.Source
		delete(files, "health.proto")
		files[".gitignore"] = "node_modules/\n"
		return files, nil
	}
	files[".gitignore"] = "/" + o.Name + "\n"
	return files, o.goModule(files)
}

// replacer puts the name and the kind in the place of the example's.
func (o *Options) replacer(from example) *strings.Replacer {
	words := strings.NewReplacer("-", "_")
	if from.name == from.kind { // the name is a word that stands in sentences too
		return strings.NewReplacer(
			`name = "`+from.name+`"`, `name = "`+o.Name+`"`, "// Command "+from.name+" ", "// Command "+o.Name+" ", "# "+from.name+"\n", "# "+o.Name+"\n",
			"keelson_"+from.name+"_", "keelson_"+words.Replace(o.Name)+"_",
		)
	}
	return strings.NewReplacer(
		from.name, o.Name, words.Replace(from.name), words.Replace(o.Name),
		`kind = "`+from.kind+`"`, `kind = "`+o.Kind+`"`, `KIND = '`+from.kind+`'`, `KIND = '`+o.Kind+`'`,
	)
}

// goModule adds go.mod and go.sum: the module versions of the checkout, so that nothing
// has to be looked up, and the same go with the plugin as with Keelson.
func (o *Options) goModule(files map[string]string) error {
	root, err := o.checkout()
	if err != nil {
		return err
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return err
	}
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		return err
	}
	// The dot keeps a plugin "runtime" from being Go's own package.
	text := strings.Replace(string(mod), "module "+module+"\n", "module plugins.local/"+o.Name+"\n", 1)
	if at := strings.Index(text, "\ntool ("); at >= 0 { // of Keelson's own build
		end := strings.Index(text[at:], "\n)\n")
		text = text[:at] + text[at+end+2:]
	}
	files["go.mod"] = text + fmt.Sprintf("\nrequire %s v0.0.0\n\nreplace %s => %s\n", module, module, root)
	files["go.sum"] = string(sum)
	return nil
}

// checkout finds the source: as named, above the working folder, above the program.
func (o *Options) checkout() (string, error) {
	if o.Keelson != "" {
		root, err := filepath.Abs(o.Keelson)
		if err == nil && !isCheckout(root) {
			err = fmt.Errorf("%s has no go.mod of module %s", root, module)
		}
		if err != nil {
			return "", fmt.Errorf("--keelson: %w", err)
		}
		return root, nil
	}
	var from []string
	if dir, err := os.Getwd(); err == nil {
		from = append(from, dir)
	}
	if self, err := os.Executable(); err == nil {
		from = append(from, filepath.Dir(self))
	}
	for _, dir := range from {
		for ; dir != "/"; dir = filepath.Dir(dir) {
			if isCheckout(dir) {
				return dir, nil
			}
		}
	}
	return "", errors.New("a plugin in Go is built against a checkout of Keelson's source, and there is none above this folder: name it with --keelson DIR")
}

func isCheckout(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	return err == nil && strings.HasPrefix(string(text), "module "+module+"\n")
}
