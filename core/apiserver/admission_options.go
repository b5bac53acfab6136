package apiserver

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/admission"
	apiserverapi "k8s.io/apiserver/pkg/apis/apiserver"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
)

const (
	enableAdmissionFlag  = "enable-admission-plugins"
	disableAdmissionFlag = "disable-admission-plugins"
	admissionConfigFlag  = "admission-control-config-file"
)

// AdmissionOptions choose the admission plugins.
type AdmissionOptions struct {
	// Enable and Disable name plugins to switch on and off, against the default.
	Enable, Disable []string
	// ConfigFile is the path of an AdmissionConfiguration (apiserver.config.k8s.io/v1).
	ConfigFile string
}

func (o *AdmissionOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringSliceVar(&o.Enable, enableAdmissionFlag, o.Enable,
		"admission plugins to switch on besides those that are on: "+strings.Join(admissionNames(true), ", ")+". All: "+
			strings.Join(admissionNames(false), ", ")+". Their order here has no meaning")
	fs.StringSliceVar(&o.Disable, disableAdmissionFlag, o.Disable, "admission plugins to switch off")
	fs.StringVar(&o.ConfigFile, admissionConfigFlag, o.ConfigFile,
		"file with the configuration of admission plugins (AdmissionConfiguration, apiserver.config.k8s.io/v1)")
	_ = fs.SetAnnotation(admissionConfigFlag, PathFlag, []string{"true"}) // the flag is there
}

func (o *AdmissionOptions) validate() []error {
	var errs []error
	check := func(flag string, names []string) {
		for _, name := range names {
			switch {
			case slices.Contains(admissionNames(false), name):
			case slices.ContainsFunc(admissionOrder, func(p admissionPlugin) bool { return p.name == name }):
				errs = append(errs, fmt.Errorf("--%s: admission plugin %q does not exist here; want of %s", flag, name,
					strings.Join(admissionNames(false), ", ")))
			default:
				errs = append(errs, fmt.Errorf("--%s: admission plugin %q is unknown; want of %s", flag, name,
					strings.Join(admissionNames(false), ", ")))
			}
		}
	}
	check(enableAdmissionFlag, o.Enable)
	check(disableAdmissionFlag, o.Disable)
	for _, name := range o.Enable {
		if slices.Contains(o.Disable, name) {
			errs = append(errs, fmt.Errorf("--%s and --%s both name %q", enableAdmissionFlag, disableAdmissionFlag, name))
		}
	}
	if _, err := readAdmissionConfig(o.ConfigFile, admissionNames(false)); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// enabled gives the plugins that run, in order, of those registered.
func (o *AdmissionOptions) enabled(registered []string) []string {
	var names []string
	for _, p := range admissionOrder {
		on := p.on && !slices.Contains(o.Disable, p.name) || slices.Contains(o.Enable, p.name)
		if on && slices.Contains(registered, p.name) {
			names = append(names, p.name)
		}
	}
	return names
}

// registeredAdmission are the names of all plugins that exist here.
var registeredAdmission = sync.OnceValue(func() []string {
	plugins := admission.NewPlugins()
	(&Server{}).registerAdmission(plugins)
	return plugins.Registered()
})

// admissionNames are the plugins that flags may name, in order: all, or those
// that are on by default.
func admissionNames(onlyOn bool) []string {
	var names []string
	for _, p := range admissionOrder {
		if (p.on || !onlyOn) && slices.Contains(registeredAdmission(), p.name) {
			names = append(names, p.name)
		}
	}
	return names
}

// admissionConfig is what a configuration file says about each plugin.
type admissionConfig map[string][]byte

var _ admission.ConfigProvider = admissionConfig(nil)

// ConfigFor implements admission.ConfigProvider.
func (c admissionConfig) ConfigFor(name string) (io.Reader, error) {
	data, ok := c[name]
	if !ok {
		return nil, nil
	}
	return bytes.NewReader(data), nil
}

// readAdmissionConfig reads an AdmissionConfiguration and the files it names,
// which are relative to its folder. Unknown fields and plugins are errors.
func readAdmissionConfig(path string, known []string) (admissionConfig, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", admissionConfigFlag, err)
	}
	obj, err := runtime.Decode(admissionCodecs().UniversalDecoder(), data)
	if err != nil {
		return nil, fmt.Errorf("--%s: read %s: %w", admissionConfigFlag, path, err)
	}
	file, ok := obj.(*apiserverapi.AdmissionConfiguration)
	if !ok {
		return nil, fmt.Errorf("--%s: %s holds a %s; want an AdmissionConfiguration of apiserver.config.k8s.io/v1", admissionConfigFlag, path,
			obj.GetObjectKind().GroupVersionKind().Kind)
	}
	config := admissionConfig{}
	for i, p := range file.Plugins {
		if !slices.Contains(known, p.Name) {
			return nil, fmt.Errorf("--%s: %s: plugins[%d].name: admission plugin %q does not exist here; want of %s", admissionConfigFlag, path, i,
				p.Name, strings.Join(known, ", "))
		}
		if _, twice := config[p.Name]; twice {
			return nil, fmt.Errorf("--%s: %s: plugins[%d].name: %q is configured twice", admissionConfigFlag, path, i, p.Name)
		}
		switch {
		case p.Configuration != nil:
			config[p.Name] = p.Configuration.Raw
		case p.Path != "":
			at := p.Path
			if !filepath.IsAbs(at) {
				at = filepath.Join(filepath.Dir(path), at)
			}
			if config[p.Name], err = os.ReadFile(at); err != nil {
				return nil, fmt.Errorf("--%s: %s: plugins[%d].path: %w", admissionConfigFlag, path, i, err)
			}
		}
	}
	return config, nil
}

// admissionCodecs read AdmissionConfigurations.
var admissionCodecs = sync.OnceValue(func() serializer.CodecFactory {
	s := runtime.NewScheme()
	utilruntime.Must(apiserverapi.AddToScheme(s))
	utilruntime.Must(apiserverv1.AddToScheme(s))
	return serializer.NewCodecFactory(s, serializer.EnableStrict)
})
