package oci

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/agent"
)

var update = flag.Bool("update", false, "write the golden plans in testdata/engines anew")

// enginesEnv names a directory with files of engines, looked at instead of those kept here.
const enginesEnv = "GOVMM_ENGINE_CONFIGS"

// host is what configs of another machine find on this one: a root file system, a volume, a file.
type host struct{ root, volume, file string }

func newHost(t testing.TB) host {
	t.Helper()
	dir := t.TempDir()
	h := host{filepath.Join(dir, "rootfs"), filepath.Join(dir, "volume"), filepath.Join(dir, "file")}
	for _, d := range []string{h.root, h.volume} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(h.file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	// What engines bind on /dev/shm is a tmpfs on their machine, of podman's and docker's size.
	old := tmpfsSize
	tmpfsSize = func(string) (uint64, bool) { return 65536000, true }
	oldMemory := hostMemory
	hostMemory = func() uint64 { return 8 << 30 }
	t.Cleanup(func() { tmpfsSize, hostMemory = old, oldMemory })
	hostHasAll(t)
	return h
}

// settle puts paths of this host in place of those of the machine that wrote the config.
func (h host) settle(spec *specs.Spec) {
	if spec.Root == nil {
		spec.Root = &specs.Root{}
	}
	spec.Root.Path = h.root
	if spec.Linux != nil {
		for i := range spec.Linux.Namespaces {
			if ns := &spec.Linux.Namespaces[i]; ns.Path != "" {
				ns.Path = "/none/" + string(ns.Type) // what a path of theirs names here is chance
			}
		}
	}
	for i := range spec.Mounts {
		if m := &spec.Mounts[i]; isBind(*m) {
			m.Source = h.volume
			if filepath.Ext(m.Destination) != "" || strings.HasPrefix(m.Destination, "/etc/") {
				m.Source = h.file
			}
		}
	}
	makeAbsolute(spec, "/bundle")
	replaceShm(spec.Mounts)
}

// without takes away what later features bring, to see the rest.
func without(spec *specs.Spec) {
	spec.Hooks = nil
	if l := spec.Linux; l != nil {
		l.Namespaces, l.UIDMappings, l.GIDMappings = Example().Linux.Namespaces, nil, nil
	}
}

// plan is what the guest is sent for a file that an engine wrote: the config of a container, or the process of an exec.
// With strip it is without what later features bring.
func (h host) plan(b []byte, strip bool) (any, error) {
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return nil, err
	}
	if spec.Version != "" {
		h.settle(&spec)
		if strip {
			without(&spec)
		}
		if err := Validate(&spec); err != nil {
			return nil, err
		}
		return Guest("id", &spec)
	}
	var p specs.Process
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, err
	}
	if err := ValidateProcess(&p); err != nil {
		return nil, err
	}
	m, err := GuestExec(&p, Example())
	return &m, err
}

// golden is what becomes of a file, as text: why it is refused, and the plan of what is left without later features. A
// plan has one field a line, without what is empty, and of a seccomp filter only that there is one.
func (h host) golden(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	plan, err := h.plan(b, false)
	if err != nil {
		fmt.Fprintf(&out, "refused: %v\n", err)
		if plan, err = h.plan(b, true); err != nil {
			fmt.Fprintf(&out, "and then: %v\n", err)
			return out.Bytes()
		}
	}
	p := plan
	if c, ok := plan.(*agent.CreateContainer); ok {
		p = &c.Process
	}
	process := p.(*agent.Process)
	if len(process.Seccomp.Filter) > 0 {
		process.Seccomp.Filter = process.Seccomp.Filter[:1]
		process.Seccomp.Filter[0] = agent.Instruction{}
	}
	lines(&out, "", reflect.ValueOf(plan).Elem())
	return out.Bytes()
}

func lines(out *bytes.Buffer, name string, v reflect.Value) {
	switch {
	case v.Kind() == reflect.Struct && (v.NumField() <= 3 || name == "Devices" || name == "DeviceRules" || name == "Mounts"):
		fmt.Fprintf(out, "%s", name)
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() {
				fmt.Fprintf(out, " %s=%v", v.Type().Field(i).Name, f)
			}
		}
		fmt.Fprintln(out)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			lines(out, strings.TrimPrefix(name+"."+v.Type().Field(i).Name, "."), v.Field(i))
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			lines(out, name, v.Index(i))
		}
	case strings.Contains(name, "Capabilities") && !v.IsZero():
		fmt.Fprintf(out, "%s %#x\n", name, v.Uint())
	case !v.IsZero():
		fmt.Fprintf(out, "%s %v\n", name, v)
	}
}

// TestEnginePlans compares the plans of configs that engines wrote with what they should be. After a change that is
// meant: go test -run TestEnginePlans -update, and look at the difference.
func TestEnginePlans(t *testing.T) {
	h := newHost(t)
	files, err := filepath.Glob("testdata/engines/*.json")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d configs of engines, %v", len(files), err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got := h.golden(t, b)
		path := strings.TrimSuffix(name, ".json") + ".plan"
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the plan is\n%s\nwant\n%s", name, got, want)
		}
	}
}

// named is how a refusal begins: by the field.
var named = regexp.MustCompile(`^(config field |linux\.|process\.|hooks|mount /|annotation |vm\.)`)

// TestEngineRefusals has each refusal name its field. It can look at more files than those kept here, which name no machine.
func TestEngineRefusals(t *testing.T) {
	dir := os.Getenv(enginesEnv)
	if dir == "" {
		dir = "testdata/engines"
	}
	h := newHost(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files in %s, %v", len(files), dir, err)
	}
	refusals := map[string][]string{}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte(`"args"`)) {
			continue // the limits of an update
		}
		if _, err := h.plan(b, false); err != nil {
			refusals[err.Error()] = append(refusals[err.Error()], filepath.Base(name))
			if !named.MatchString(err.Error()) {
				t.Errorf("%s is refused without a field's name: %v", name, err)
			}
		}
	}
	for _, text := range slices.Sorted(maps.Keys(refusals)) {
		t.Logf("%s:\n\t%s", text, strings.Join(refusals[text], " "))
	}
}

// node is a value in a JSON document, and how to put another in its place.
type node struct{ set func(any) }

func nodes(v any, list []node) []node {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			list = append(list, node{func(n any) { v[k] = n }})
			list = nodes(v[k], list)
		}
	case []any:
		for i := range v {
			list = append(list, node{func(n any) { v[i] = n }})
			list = nodes(v[i], list)
		}
	}
	return list
}

// FuzzEngineConfig puts other values into configs that engines wrote.
func FuzzEngineConfig(f *testing.F) {
	h := newHost(f)
	files, err := filepath.Glob("testdata/engines/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal(err)
	}
	var configs [][]byte
	for i, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		configs = append(configs, b)
		f.Add(byte(i), uint16(7*i), []byte(`-1`), uint16(i), []byte(`["rro","tmpcopyup"]`))
		f.Add(byte(i), uint16(100+i), []byte(`{"path":"/dev/x","type":"b","major":7,"minor":1}`), uint16(3), []byte(`""`))
	}
	f.Fuzz(func(t *testing.T, which byte, first uint16, a []byte, second uint16, b []byte) {
		var doc map[string]any
		if err := json.Unmarshal(configs[int(which)%len(configs)], &doc); err != nil {
			t.Fatal(err)
		}
		for _, edit := range []struct {
			n uint16
			v []byte
		}{{first, a}, {second, b}} {
			all := nodes(doc, nil)
			var v any
			if json.Unmarshal(edit.v, &v) != nil {
				v = string(edit.v)
			}
			all[int(edit.n)%len(all)].set(v)
		}
		config, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, strip := range []bool{false, true} {
			switch plan, err := h.plan(config, strip); {
			case err == nil:
				checkPlan(t, plan)
			case err.Error() == "":
				t.Error("refused without a word")
			}
		}
	})
}

// checkPlan wants a plan to reach the guest as it is, and to name nothing but exports and devices of the guest.
func checkPlan(t *testing.T, plan any) {
	t.Helper()
	m, ok := plan.(*agent.CreateContainer)
	if !ok {
		return
	}
	b, err := agent.Append(nil, 1, m)
	if err != nil {
		return // too large to be sent: create fails by that
	}
	_, got, err := agent.Read(bytes.NewReader(b), agent.Host)
	if err != nil {
		t.Fatalf("the plan does not decode: %v", err)
	}
	if again, err := agent.Append(nil, 1, got); err != nil || !bytes.Equal(again, b) {
		t.Errorf("the plan decodes to another: %v", err)
	}
	for i, mount := range m.Mounts {
		if mount.Bind && mount.Source != "/"+ExportName("id", i+1) || !filepath.IsAbs(mount.Target) {
			t.Errorf("mount %+v", mount)
		}
	}
	for _, d := range m.Devices {
		if !filepath.IsAbs(d.Path) || d.Mode&^0o170000 > 0o7777 {
			t.Errorf("device %+v", d)
		}
	}
}
