// Command cmd is one of the example plugins: cmd KIND NAME.
package main

import (
	"fmt"
	"os"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/test/plugins/examples"
)

func main() {
	if len(os.Args) == 3 {
		if p, ok := examples.Plugin(os.Args[1], os.Args[2]); ok {
			kit.Main(p)
		}
	}
	fmt.Fprintf(os.Stderr, "want KIND NAME, got %q\n", os.Args[1:])
	os.Exit(1)
}
