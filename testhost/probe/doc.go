// Package probe proves, on a real kernel, the assumptions that the design
// stands on. Its tests run inside the test host.
package probe
