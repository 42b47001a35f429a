package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A Result is what became of one unit of a suite (a program, a bats file) under one runtime.
type Result struct {
	Unit       string
	Build      string      // hash of the runtime's binary
	Version    string      // the runtime's, for people
	Kernel     string      // of the machine it ran on
	Assertions []Assertion `json:",omitempty"`
	Ended      string      `json:",omitempty"` // how the program ended, unless well
	Seconds    float64
}

func (r *Result) count(outcome string) (n int) {
	for _, a := range r.Assertions {
		if a.Outcome == outcome {
			n++
		}
	}
	return n
}

func (r *Result) String() string {
	s := fmt.Sprintf("%d passed, %d failed, %d skipped", r.count(passed), r.count(failed), r.count(skipped))
	if r.Ended != "" {
		s += ", " + r.Ended
	}
	return fmt.Sprintf("%s (%.0f s)", s, r.Seconds)
}

// A store keeps the results of one suite under one runtime: a file a unit, so that a run goes on where the last one ended.
type store string

func (s store) path(unit string) string { return filepath.Join(string(s), unit+".json") }

// get returns a unit's result, or nil if there is none.
func (s store) get(unit string) (*Result, error) {
	b, err := os.ReadFile(s.path(unit))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := new(Result)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w: remove it to run the unit again", s.path(unit), err)
	}
	return r, nil
}

func (s store) put(r *Result) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(string(s), 0o755); err != nil {
		return err
	}
	// A test host may die at any moment.
	if err := os.WriteFile(s.path(r.Unit)+".new", append(b, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.Rename(s.path(r.Unit)+".new", s.path(r.Unit)); err != nil {
		return err
	}
	return s.end(r.Unit)
}

// begin notes that a unit runs, and returns how many runs of it were begun and never ended.
func (s store) begin(unit string) (before int, err error) {
	if err := os.MkdirAll(string(s), 0o755); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(s.path(unit)+".begun", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	_, err = f.WriteString("x")
	return int(fi.Size()), err
}

func (s store) end(unit string) error {
	err := os.Remove(s.path(unit) + ".begun")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
