package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseTAP(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []Assertion
		plan       int
	}{
		{"runtime-tools", "TAP version 13\nok 1 - one\n  ---\n  {\n    \"reference\": \"x\"\n  }\n  ...\nnot ok 2 - bad\n  ---\n  {\"error\": \"e\"}\n  ...\n1..2\n", []Assertion{
			{Name: "one", Outcome: passed}, {Name: "bad", Outcome: failed, Detail: "---\n{\"error\": \"e\"}\n...\n"},
		}, 2},
		{"bats", "1..3\nok 1 runc run # skip test requires root\nok 2 two in 120ms\nnot ok 3 three\n# (in test file a.bats, line 3)\n#   `false' failed\n", []Assertion{
			{Name: "runc run", Outcome: skipped}, {Name: "two *", Outcome: passed},
			{Name: "three", Outcome: failed, Detail: "(in test file a.bats, line 3)\n`false' failed\n"},
		}, 3},
		{"a test that took too long", "1..1\nnot ok 1 slow # timeout after 120s\n# why\n", []Assertion{{Name: "slow", Outcome: failed, Detail: "why\n"}}, 1},
		{"no plan, to do, no name", "not ok 1 - later # TODO soon\nok 2 - sooner # TODO done\nnot ok\n", []Assertion{
			{Name: "later", Outcome: skipped}, {Name: "sooner", Outcome: passed}, {Outcome: failed},
		}, -1},
		{"names without what varies", "ok 1 - /tmp/ocitest3890503807/x of 1b4e28ba-2fa1-11d2-883f-0016d3cca427\n", []Assertion{
			{Name: "/tmp/*/x of *", Outcome: passed},
		}, -1},
		{"a hash that is no directive", "ok 1 - hook #0 skips nothing\n", []Assertion{{Name: "hook #0 skips nothing", Outcome: passed}}, -1},
		{"other output", "okay\nnot okay\nsomething else\n# a note\n", nil, -1},
	} {
		got, plan := parseTAP(tt.text)
		if !reflect.DeepEqual(got, tt.want) || plan != tt.plan {
			t.Errorf("%s: %+v, plan %d; want %+v, %d", tt.name, got, plan, tt.want, tt.plan)
		}
	}
	got, _ := parseTAP("not ok 1 - x\n# first\n# " + strings.Repeat("y", 5000) + "\n# last\n")
	if d := got[0].Detail; len(d) > detailBegin+detailEnd+10 || !strings.HasPrefix(d, "first\n") || !strings.HasSuffix(d, "\nlast\n") {
		t.Errorf("a long detail became %q", d)
	}
}
