package specjson_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/specjson"
)

// fill gives every field below v a value, n levels of pointers, lists and maps deep.
func fill(v reflect.Value, n int) {
	if n == 0 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n-1)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n-1)
		fill(v.Index(1), n-1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		e := reflect.New(v.Type().Elem()).Elem()
		fill(e, n-1)
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), e)
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Interface:
		v.Set(reflect.ValueOf("any"))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint, reflect.Uint64:
		v.SetUint(7)
	case reflect.Int, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(-7)
	case reflect.Float64:
		v.SetFloat(0.5)
	}
}

// same checks that both ways through a view end where encoding/json does by itself.
func same(t *testing.T, name string, text []byte) {
	t.Helper()
	var plain, viewed specs.Spec
	plainErr, err := json.Unmarshal(text, &plain), json.Unmarshal(text, specjson.Spec(specjson.Read, &viewed))
	if (plainErr == nil) != (err == nil) || !reflect.DeepEqual(plain, viewed) {
		t.Errorf("%s: read %+v (%v)\nwant %+v (%v)", name, viewed, err, plain, plainErr)
	}
	var a, b any
	for _, w := range []struct {
		from any
		to   *any
	}{{&plain, &a}, {specjson.Spec(specjson.Write, &plain), &b}} {
		text, err := json.Marshal(w.from)
		if err == nil {
			err = json.Unmarshal(text, w.to)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%s: wrote %v\nwant  %v", name, b, a)
	}
}

func TestSame(t *testing.T) {
	for n := range 12 {
		var s specs.Spec
		fill(reflect.ValueOf(&s).Elem(), n)
		text, err := json.Marshal(&s)
		if err != nil {
			t.Fatal(err)
		}
		same(t, string(text), text)
	}
	for _, text := range []string{
		`{"linux": null, "hooks": null, "windows": null}`,
		`{"linux": {}, "hooks": {}, "vm": {}}`,
		`{"Linux": {"RESOURCES": {"Memory": {"limit": 1}}}, "HOOKS": {"prestart": [{"path": "/x"}]}}`,
		`{"linux": {"resources": {"memory": {"limit": 1}}}, "linux": {"resources": {"memory": {"swap": 2}, "cpu": null}}}`,
		`{"linux": {"resources": null, "netDevices": {}, "seccomp": {"defaultAction": "x", "flags": []}, "timeOffsets": {}}}`,
		`{"linux": []}`, `{"linux": {"resources": {"memory": "much"}}}`, `{"vm": 1}`, `{"linux": {"resources": 1}}`,
	} {
		same(t, text, []byte(text))
	}
}

// TestFieldsOfErrors compares the paths that errors name, of fields that a view hides, of others, and of those between.
func TestFieldsOfErrors(t *testing.T) {
	for _, text := range []string{
		`{"process": {"args": "ls"}}`, `{"process": {"user": {"uid": "x"}}}`, `{"hostname": 1}`, `{"mounts": [{"options": "ro"}]}`,
		`{"linux": 1}`, `{"linux": {"namespaces": 1}}`, `{"linux": {"devices": [{"major": "x"}]}}`, `{"linux": {"seccomp": {"flags": 1}}}`,
		`{"linux": {"resources": 1}}`, `{"linux": {"resources": {"memory": {"limit": "x"}}}}`,
		`{"linux": {"resources": {"devices": [{"allow": 1}]}}}`, `{"linux": {"resources": {"unified": 1}}}`,
		`{"hooks": {"prestart": 1}}`, `{"vm": {"hwConfig": {"vcpus": "x"}}}`, `{"windows": {"layerFolders": 1}}`,
	} {
		var plain, viewed specs.Spec
		want := json.Unmarshal([]byte(text), &plain)
		got := specjson.Describe(json.Unmarshal([]byte(text), specjson.Spec(specjson.Read, &viewed)))
		var w, g *json.UnmarshalTypeError
		if !errors.As(want, &w) || !errors.As(got, &g) || g.Field != w.Field || g.Value != w.Value {
			t.Errorf("%s:\ngot  %v\nwant %v", text, got, want)
		}
	}
}

// TestEngines takes the configs that engines have written.
func TestEngines(t *testing.T) {
	names, err := filepath.Glob("../oci/testdata/engines/*.json")
	if err != nil || len(names) < 20 {
		t.Fatalf("%d configs: %v", len(names), err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if json.Valid(text) {
			same(t, name, text)
		}
	}
}
