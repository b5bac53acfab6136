package pluginhost

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/go-plugin"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// offered is the base contract in each version that this host speaks. go-plugin takes
// the highest one that the program speaks too; session.version has it.
func offered() map[int]plugin.PluginSet {
	set := map[int]plugin.PluginSet{}
	for _, v := range pluginv1.ProtocolVersions() {
		set[v] = plugin.PluginSet{pluginv1.ServiceName: dispensed{}}
	}
	return set
}

// versionError puts go-plugin's words for a program that speaks no version of ours into
// ours, with the versions of both sides. Nil: err is about something else. Starting the
// program again does not mend it.
func versionError(err error) error {
	const unknown = "incompatible API version with plugin. Plugin version: "
	rest, ok := strings.CutPrefix(err.Error(), unknown)
	if !ok {
		return nil
	}
	theirs, _, _ := strings.Cut(rest, ",")
	ours := make([]string, 0, 2)
	for _, v := range pluginv1.ProtocolVersions() {
		ours = append(ours, strconv.Itoa(v))
	}
	return final(fmt.Errorf("the program speaks version %s of the plugin contract, this kernel %s: build it against another release of the kit",
		theirs, strings.Join(ours, " and ")))
}
