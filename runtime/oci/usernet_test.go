package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestAddResolvConf: a container with a network in user mode gets the file, unless its config brings one.
func TestAddResolvConf(t *testing.T) {
	for _, tt := range []struct {
		name       string
		annotation bool
		mount      string
		want       bool
	}{{"no network", false, "", false}, {"a network", true, "", true}, {"another mount", true, "/etc/hosts", true}, {"its own", true, "/etc/resolv.conf", false}, {"its own etc", true, "/etc", false}} {
		dir := t.TempDir()
		spec := Example()
		if tt.annotation {
			spec.Annotations = map[string]string{AnnotationNetwork: "user"}
		}
		if tt.mount != "" {
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: tt.mount, Type: "bind", Source: "/", Options: []string{"bind"}})
		}
		before := len(spec.Mounts)
		if err := AddResolvConf(spec, dir); err != nil {
			t.Fatal(err)
		}
		if got := len(spec.Mounts) > before; got != tt.want {
			t.Errorf("%s: a mount: %v", tt.name, got)
		}
		b, err := os.ReadFile(filepath.Join(dir, "resolv.conf"))
		if tt.want != (err == nil) || tt.want && !strings.HasPrefix(string(b), "nameserver 10.0.2.3\n") {
			t.Errorf("%s: %q, %v", tt.name, b, err)
		}
		if tt.want {
			if _, err := ParseMount(spec.Mounts[before]); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
	}
}

// TestSpacesInAnnotations: an engine may divide what has commas.
func TestSpacesInAnnotations(t *testing.T) {
	spec := Example()
	for _, text := range []string{"user,publish=8080:80,publish=53:53/udp", "user publish=8080:80 publish=53:53/udp", " user,  publish=8080:80 publish=53:53/udp "} {
		spec.Annotations = map[string]string{AnnotationNetwork: text}
		publish, ok, err := UserNetwork(spec)
		if want := strings.Contains(text, ",  "); (err != nil) != want || !want && (!ok || len(publish) != 2 || publish[1].Protocol != "udp") {
			t.Errorf("%q: %v, %v, %v", text, publish, ok, err)
		}
	}
	spec.Annotations = map[string]string{AnnotationDiskLimit: "rate=10M ops=1K"}
	if c, err := Limit(spec, AnnotationDiskLimit); err != nil || c.Bytes.PerSecond != 10<<20 || c.Operations.PerSecond != 1024 {
		t.Errorf("got %+v, %v", c, err)
	}
}
