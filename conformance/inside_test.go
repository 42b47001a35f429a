package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRecall reads what another working tree wrote.
func TestRecall(t *testing.T) {
	t.Chdir(t.TempDir())
	s := &suite{name: "s", version: "1"}
	if known, err := recall(s); err != nil || len(known) != 0 {
		t.Fatalf("before the first run: %v, %v", known, err)
	}
	if err := os.MkdirAll(filepath.Dir(runtimesFile(s)), 0o755); err != nil {
		t.Fatal(err)
	}
	text := `{"govmm-run": {"Store": "/elsewhere/govmm-run"}, "runc": {"Store": "/cache/runc"}}`
	if err := os.WriteFile(runtimesFile(s), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	known, err := recall(s)
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(filepath.Join(out, "s-1", subject))
	if err != nil {
		t.Fatal(err)
	}
	if known[subject].Store != here || known[reference].Store != "/cache/runc" {
		t.Errorf("results are sought in %+v, want govmm-run's in %s and runc's where they were", known, here)
	}
}
