package main

import (
	"reflect"
	"strings"
	"testing"
)

func ok(names ...string) (all []Assertion) {
	for _, n := range names {
		all = append(all, Assertion{Name: n, Outcome: passed})
	}
	return all
}

func TestCompare(t *testing.T) {
	for _, tt := range []struct {
		name     string
		ref, got Result
		want     []difference
	}{
		{"the same", Result{Assertions: ok("a", "b")}, Result{Assertions: ok("b", "a")}, nil},
		{"one fails", Result{Assertions: ok("a", "b")}, Result{Unit: "u", Assertions: []Assertion{{"a", failed, "why"}, {"b", passed, ""}}}, []difference{{"u", "a", failed, "why"}}},
		{"one of two of a name fails", Result{Assertions: ok("a", "a")}, Result{Unit: "u", Assertions: []Assertion{{"a", passed, ""}, {"a", failed, "2"}}}, []difference{{"u", "a", failed, "2"}}},
		{"it fails under both", Result{Assertions: []Assertion{{"a", failed, ""}}}, Result{Assertions: []Assertion{{"a", failed, ""}}}, nil},
		{"skipped counts", Result{Assertions: ok("a")}, Result{Unit: "u", Assertions: []Assertion{{"a", skipped, ""}}}, []difference{{"u", "a", skipped, ""}}},
		{"the rest is not reached", Result{Assertions: ok("a", "b", "c", "d", "e")}, Result{Unit: "u", Assertions: ok("a"), Ended: "exit status 1"}, []difference{{"u", notReached, "4", "exit status 1"}}},
		{"one is not reached", Result{Assertions: ok("a", "b")}, Result{Unit: "u#2-0", Assertions: ok("a"), Ended: "late"}, []difference{{"u.bats", "b", notReached, "late"}}},
		{"no assertion, only an end", Result{}, Result{Unit: "u", Ended: "exit status 1"}, []difference{{"u", ending, failed, "exit status 1"}}},
		{"more passes", Result{}, Result{Assertions: ok("a")}, nil},
	} {
		if got := compare(&tt.ref, &tt.got); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// testComparison has a difference of each kind, two of them explained.
func testComparison(t *testing.T, explained string) *comparison {
	t.Helper()
	because, err := parseExplanations(explained)
	if err != nil {
		t.Fatal(err)
	}
	return &comparison{
		suite: &suite{name: "s", version: "1", about: "About."}, units: []string{"u", "v"}, because: because,
		results: map[string]map[string]*Result{
			"runc":      {"u": {Unit: "u", Version: "1.1", Kernel: "k", Assertions: ok("a|b", "c", "c")}, "v": {Unit: "v", Version: "1.1", Kernel: "k"}},
			"govmm-run": {"u": {Unit: "u", Version: "0.1", Kernel: "k", Assertions: []Assertion{{"a|b", failed, "x"}, {"c", failed, ""}, {"c", failed, ""}, {"d", passed, ""}}}, "v": {Unit: "v", Version: "0.1", Kernel: "k", Ended: "exit status 2"}},
		},
	}
}

func TestSection(t *testing.T) {
	text, unexplained := testComparison(t, "s u c\n\tBecause\n\tof c.\ns u\n\tOther.\ns v\n\tEnd.\n").section()
	want := "## s\n\nAbout. Version 1; kernel of the machine: k.\n\n" +
		"| | run | without a failure | passed | failed | skipped |\n| --- | --- | --- | --- | --- | --- |\n" +
		"| runc 1.1 | 2 of 2 | 2 | 3 | 0 | 0 |\n| govmm-run 0.1 | 2 of 2 | 0 | 1 | 3 | 0 |\n\n" +
		"Passes under runc and not under govmm-run:\n\n| where | what | why |\n| --- | --- | --- |\n" +
		"| u | a\\|b | Other. |\n| u | c (2 times) | Because of c. |\n| v | exit status 2 | End. |\n\n" +
		"1 pass under govmm-run and not under runc: u (1).\n"
	if text != want || len(unexplained) != 0 {
		t.Errorf("unexplained %v, section:\n%s\nwant:\n%s", unexplained, text, want)
	}
	if _, unexplained = testComparison(t, "s v\n\tEnd.\ns w\n\tOld.\n").section(); len(unexplained) != 4 || !strings.Contains(unexplained[3], "w") {
		t.Errorf("unexplained: %q", unexplained)
	}
}

func TestInsertSection(t *testing.T) {
	text, err := insertSection("# Title\n\nKept.\n", "a", "A1\n")
	if err != nil {
		t.Fatal(err)
	}
	if text, err = insertSection(text, "b", "B1\n"); err != nil {
		t.Fatal(err)
	}
	if text, err = insertSection(text+"\nTail.\n", "a", "A2\n"); err != nil {
		t.Fatal(err)
	}
	begin, end := marks("a")
	if !strings.HasPrefix(text, "# Title\n\nKept.\n\n"+begin+"\nA2\n"+end+"\n") || strings.Contains(text, "A1") || !strings.Contains(text, "B1\n") || !strings.HasSuffix(text, "\nTail.\n") {
		t.Errorf("got %s", text)
	}
	if _, err := insertSection(begin+"\nA\n", "a", "A2\n"); err == nil {
		t.Error("a section without an end is replaced")
	}
}

func TestParseExplanations(t *testing.T) {
	if _, err := parseExplanations(explanationsText); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"\ttext\n", "suite\n\ttext\n", "s u (\n\ttext\n", "s u\n", "s u\ns v\n\ttext\n"} {
		if _, err := parseExplanations(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestStore(t *testing.T) {
	s := store(t.TempDir() + "/x")
	if r, err := s.get("u"); r != nil || err != nil {
		t.Fatalf("%v, %v", r, err)
	}
	for want := range 2 {
		if n, err := s.begin("u"); n != want || err != nil {
			t.Errorf("begun %d times before, %v; want %d", n, err, want)
		}
	}
	in := &Result{Unit: "u", Assertions: ok("a")}
	if err := s.put(in); err != nil {
		t.Fatal(err)
	}
	if out, err := s.get("u"); err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("%+v, %v; want %+v", out, err, in)
	}
	if n, err := s.begin("u"); n != 0 || err != nil {
		t.Errorf("begun %d times before, %v; want 0: the last one ended", n, err)
	}
}
