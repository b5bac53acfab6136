package exec

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/plugins/kit"
)

// reference is a variable, or one that is to stay as it is: $${NAME}.
var reference = regexp.MustCompile(`\$?\$\{[A-Z][A-Z0-9_]*\}`)

// variables are what the kernel told the plugin, by the names that configurations use.
func variables(env *kit.Env, files string) map[string]string {
	first := func(list []netip.Addr) string {
		if len(list) == 0 {
			return ""
		}
		return list[0].String()
	}
	networks := func(list []netip.Prefix) string {
		texts := make([]string, len(list))
		for i, p := range list {
			texts[i] = p.String()
		}
		return strings.Join(texts, ",")
	}
	dns := ""
	if env.Cluster.DNSAddress.IsValid() {
		dns = env.Cluster.DNSAddress.String()
	}
	return map[string]string{
		"PLUGIN_NAME": env.Name, "KUBECONFIG": filepath.Join(files, kubeconfigFile), "API_SERVER": env.API.Server,
		"API_CA": filepath.Join(files, caFile), "CLIENT_CERT": filepath.Join(files, clientFile),
		"DATA_DIR": env.DataDir, "RUN_DIR": env.RunDir, "FILES_DIR": files, "LISTEN": env.Listen, "KEELSON": executable(),
		"NETWORK_SOCKET": env.Endpoints["network"],
		"NODE_NAME":      env.Node.Name, "NODE_IP": first(env.Node.Addresses), "KUBELET_PORT": strconv.Itoa(env.Node.KubeletPort),
		"CLUSTER_DNS": dns, "CLUSTER_DOMAIN": env.Cluster.Domain,
		"SERVICE_CIDR": networks(env.Cluster.ServiceCIDRs), "POD_CIDR": networks(env.Cluster.PodCIDRs),
	}
}

// executable is the binary that this plugin is in.
func executable() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	return path
}

// names are the variables that there are.
var names = slices.Sorted(maps.Keys(variables(&kit.Env{}, "")))

// expand replaces variables. Names that there are not were refused before.
func expand(text string, vars map[string]string) string {
	return reference.ReplaceAllStringFunc(text, func(ref string) string {
		if strings.HasPrefix(ref, "$$") {
			return ref[1:]
		}
		return vars[ref[2:len(ref)-1]]
	})
}

// texts calls visit with every field that may have variables in it.
func (c *Config) texts(visit func(at *field.Path, text *string)) {
	visit(field.NewPath("command"), &c.Command)
	visit(field.NewPath("workingDir"), &c.WorkingDir)
	for i := range c.Args {
		visit(field.NewPath("args").Index(i), &c.Args[i])
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		value := c.Env[name]
		visit(field.NewPath("env").Key(name), &value)
		c.Env[name] = value
	}
	for i := range c.Files {
		visit(field.NewPath("files").Index(i).Child("path"), &c.Files[i].Path)
		visit(field.NewPath("files").Index(i).Child("content"), &c.Files[i].Content)
		visit(field.NewPath("files").Index(i).Child("link"), &c.Files[i].Link)
	}
	health := field.NewPath("health")
	visit(health.Child("http"), &c.Health.HTTP)
	visit(health.Child("tcp"), &c.Health.TCP)
	visit(health.Child("grpc"), &c.Health.GRPC)
	for i := range c.Health.Exec {
		visit(health.Child("exec").Index(i), &c.Health.Exec[i])
	}
}

// validateVariables refuses names that there are not.
func (c *Config) validateVariables() field.ErrorList {
	var errs field.ErrorList
	c.texts(func(at *field.Path, text *string) {
		for _, ref := range reference.FindAllString(*text, -1) {
			if !strings.HasPrefix(ref, "$$") && !slices.Contains(names, ref[2:len(ref)-1]) {
				errs = append(errs, field.NotSupported(at, ref[2:len(ref)-1], names))
			}
		}
	})
	return errs
}

// expandAll replaces the variables of all fields.
func (c *Config) expandAll(vars map[string]string) {
	c.texts(func(_ *field.Path, text *string) { *text = expand(*text, vars) })
}
