package compact_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/govmm/govmm/runtime/compact"
)

// TestSpecs hands over the configs that engines have written.
func TestSpecs(t *testing.T) {
	names, err := filepath.Glob("../oci/testdata/engines/*.json")
	if err != nil || len(names) < 20 {
		t.Fatalf("%d configs: %v", len(names), err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var want, got specs.Spec
		if json.Unmarshal(text, &want) != nil {
			continue
		}
		b, err := compact.Append(nil, &want)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := compact.Read(b, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", name, err, got, want)
		}
	}
}

type all struct {
	B    bool
	I    int16
	U    uint64
	S    string
	P    *int
	L, M []string
	N    map[string][]byte
	O    map[int]bool
	A    any
}

func TestEdges(t *testing.T) {
	zero, n := 0, -1<<40
	for _, want := range []all{
		{}, {B: true, I: -32768, U: 1<<64 - 1, S: "text\n\x00", P: &n, L: []string{}, M: []string{"", "x"}},
		{P: &zero, N: map[string][]byte{}, O: map[int]bool{-1: true, 2: false}}, {N: map[string][]byte{"a": nil, "b": {}, "c": {1}}},
		{A: map[string]any{"x": []any{1.5, "y", nil}}}, {A: false},
	} {
		b, err := compact.Append([]byte("x"), &want)
		if err != nil {
			t.Fatal(err)
		}
		b = b[1:]
		var got all
		if err := compact.Read(b, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v: got %+v, want %+v", err, got, want)
		}
		for i := range b { // what is cut is an error or, at worst, less; never a panic
			if compact.Read(b[:i], new(all)) == nil {
				t.Errorf("%+v: %d of %d bytes are as good as all", want, i, len(b))
			}
		}
		if compact.Read(append(b, 0), new(all)) == nil {
			t.Errorf("%+v: one byte more is not noticed", want)
		}
	}
}

func TestNoForm(t *testing.T) {
	if _, err := compact.Append(nil, &struct{ C chan int }{}); err == nil {
		t.Error("a channel was written")
	}
	if err := compact.Read([]byte{1}, &struct{ F float64 }{}); err == nil {
		t.Error("a float was read")
	}
	if err := compact.Read([]byte{0xff, 0xff, 0xff, 0xff, 0x7f}, new([]string)); err == nil {
		t.Error("a list of billions was read")
	}
}
