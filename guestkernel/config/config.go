// Package config holds the guest kernel's configuration: fragments of a
// .config, one per theme, that are appended to the kernel's tinyconfig.
// "CONFIG_X=n" asks for an option to be off; the recipe fails when any
// option ends up otherwise than asked.
package config

import "embed"

// Container is the configuration of the kernel that runs containers.
//
//go:embed *.config
var Container embed.FS
