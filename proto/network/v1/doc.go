// Package networkv1 is the contract between who makes pod sandboxes on a node (the
// runtime plugin, or a CNI executable) and the node's network plugin, which serves it on
// /run/keelson/network.sock (mode 0600, plain gRPC: whoever can open it is root).
//
// The caller makes the sandbox's network namespace and then calls Setup, once for each
// sandbox, before the first container; and Teardown when the sandbox goes, before or
// after the namespace is removed. Both may be repeated, also after a crash of either
// side: the plugin keeps on disk which addresses a sandbox has. Calls for different
// sandboxes may overlap; those for one sandbox the caller serialises.
//
//   - Setup answers when the interface is up and has its addresses and routes. Repeated
//     for the same sandbox it repairs what is missing and gives the same addresses.
//     After an error nothing is left that Teardown would not remove.
//   - UNAVAILABLE means not now (no pod range yet, the plugin restarts): try again.
//     RESOURCE_EXHAUSTED: no free address. INVALID_ARGUMENT: the request is wrong.
//   - Teardown of what is not there is no error.
//   - Status says whether Setup can work; a node is NetworkReady when it does.
//
// Package networktest is the suite that every network plugin passes.
package networkv1
