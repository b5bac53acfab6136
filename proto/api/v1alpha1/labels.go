package v1alpha1

// SimLabel is the label of nodes that are simulated (keelson sim); its value names whose
// they are. Nothing runs on such a node, and nobody answers at its address.
const SimLabel = "keelson.dev/sim"
