// Package bare holds the guest that start-up is compared with other monitors
// on: an untuned kernel and a static init that prints one line and reboots.
// It is for tests and the bench, not for containers, and stays as it is so
// that figures can be compared over time.
package bare

import _ "embed"

// Config is appended to the kernel's tinyconfig.
//
//go:embed guest.config
var Config []byte

// Init is the C source of the guest's init.
//
//go:embed init/hello-init.c
var Init []byte
