//go:build man

package main

import "github.com/govmm/govmm/packaging/man"

// Built with the tag man, which make man sets, this program writes its man pages and is nothing else.
func init() { man.Main((&app{}).command()) }
