// Package version holds what the programs say of themselves.
package version

// Version is set when the binaries are linked.
var Version = "devel"
