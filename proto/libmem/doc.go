// Package libmem keeps small what a process of Keelson has in memory. The kernel and
// its built-in plugins are the same large program, and most of its pages are needed
// by the start alone.
package libmem
