//go:build man

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra/doc"

	"github.com/govmm/govmm/runtime/version"
)

// Built with the tag man, which make man sets, this program writes its man pages to the directory that it is given and
// is nothing else: what makes them would be a tenth of the real one.
func init() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run -tags man ./cmd/govmm-run DIRECTORY")
		os.Exit(2)
	}
	root := (&app{}).command()
	root.DisableAutoGenTag = true
	err := os.MkdirAll(os.Args[1], 0o755)
	if err == nil {
		err = doc.GenManTree(root, &doc.GenManHeader{Title: "GOVMM-RUN", Section: "8", Source: "govmm-run " + version.Version, Manual: "govmm"}, os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
