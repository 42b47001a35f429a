// Package man writes the manual pages of a program whose commands are cobra's. Nothing that is shipped imports it: with the build tag man
// a program writes its pages instead of being itself, since what makes them would be a tenth of the real one.
package man

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Main writes the pages of root and the commands below it to the directory that is the program's only argument, and
// ends the program. SOURCE_DATE_EPOCH, where it is set, is the date that they bear.
func Main(root *cobra.Command) {
	if len(os.Args) != 2 {
		fmt.Fprintf(os.Stderr, "usage: go run -tags man ./cmd/%s DIRECTORY\n", root.Name())
		os.Exit(2)
	}
	if err := write(root, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func write(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	markdown(root)
	header := doc.GenManHeader{Section: "8", Source: root.Name() + " " + root.Version, Manual: "System Administration"}
	return doc.GenManTree(root, &header, dir)
}

// markdown makes the texts what doc takes them for: examples stand four columns in.
func markdown(cmd *cobra.Command) {
	cmd.DisableAutoGenTag = true
	cmd.Long = strings.ReplaceAll(cmd.Long, "\n  ", "\n    ")
	for _, c := range cmd.Commands() {
		markdown(c)
	}
}
