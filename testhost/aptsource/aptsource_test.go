package aptsource

import "testing"

func TestFind(t *testing.T) {
	release, mirror, err := find("Debian Debian bookworm-updates http://a\nOther Debian bookworm http://b\nshort\nDebian Debian bookworm http://c\n")
	if release != "bookworm" || mirror != "http://c" || err != nil {
		t.Errorf("%q at %q, %v", release, mirror, err)
	}
	if _, _, err := find("Debian Debian bookworm-updates http://a\n"); err == nil {
		t.Error("updates are taken for the release")
	}
}
