// Command pause is a sandbox's own process for tests whose binary is linked dynamically, as with -race: that one cannot run in an empty root.
package main

import _ "keelson.dev/keelson/plugins/runtime" // under the name of a sandbox's process it runs as one

func main() {}
