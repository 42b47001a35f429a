package main

import (
	"strings"
	"testing"
	"time"
)

func TestTestHost(t *testing.T) {
	o := &options{budget: time.Minute}
	plain, timed := strings.Join(testHost(&suite{}, o, "/r"), " "), strings.Join(testHost(&suite{timed: true}, o, "/r"), " ")
	if strings.Contains(plain, "icount") || !strings.Contains(timed, "--icount --real-idle") {
		t.Errorf("%q for a suite that is not timed, %q for one that is", plain, timed)
	}
	if !strings.Contains(plain, "--rw /r --timeout 19m0s --") || !strings.Contains(timed, "--timeout 3h10m0s --") {
		t.Errorf("%q, %q", plain, timed)
	}
}
