package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestBatsUnits(t *testing.T) {
	dir := t.TempDir()
	text := "#!/usr/bin/env bats\n# @test \"no\" {\n@test \"a (b) [c]\" {\n\ttrue\n}\n\n@test \"d \\\"e\\\" ${x}\" {\n}\n@test 'f' {\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "x.bats"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	units, err := batsUnits(dir, []string{"x"}, 2)
	if want := []string{"x#2-0", "x#2-1"}; err != nil || !reflect.DeepEqual(units, want) {
		t.Fatalf("%v, %v; want %v", units, err, want)
	}
	var all []string
	for _, u := range units {
		file, names, err := batsNames(dir, u)
		if err != nil || file != "x.bats" || place(u) != "x.bats" {
			t.Errorf("%s: %s, %v", u, file, err)
		}
		all = append(all, names...)
	}
	if want := []string{`a \(b\) \[c\]`, `d "e" \$\{x\}`, "f"}; !reflect.DeepEqual(all, want) {
		t.Errorf("%q, want %q", all, want)
	}
	if _, _, err := batsNames(dir, "x#y"); err == nil {
		t.Error("a unit without a part is taken")
	}
	if _, err := batsUnits(dir, []string{"y"}, 2); err == nil {
		t.Error("a file that is not there is taken")
	}
}

func TestBatsWait(t *testing.T) {
	for text, want := range map[string]bool{
		"\twait # for both\n": true, "a\nwait\n": true, "wait $pid\n": false, "  # wait\n": false, "run_podman wait\n": false, "waiting\n": false,
	} {
		if got := batsWait.MatchString(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
