package main

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/net/tap"
	"github.com/govmm/govmm/virtio/net/user"
	"github.com/govmm/govmm/virtio/ratelimit"
	"github.com/govmm/govmm/vmm"
)

func TestParseNet(t *testing.T) {
	some := net.MAC{2, 0, 0x5e, 0x10, 0, 1}
	for arg, want := range map[string]netOptions{
		"tap=tap0,mac=02:00:5e:10:00:01": {kind: "tap", name: "tap0", mac: some, queues: 1},
		"tap=t%d,queues=4,mac=02:00:5e:10:00:01,rate=10M:1M,ops=1K": {
			kind: "tap", name: "t%d", mac: some, queues: 4,
			limit: ratelimit.Config{Bytes: ratelimit.Rate{PerSecond: 10 << 20, Burst: 1 << 20}, Operations: ratelimit.Rate{PerSecond: 1024}},
		},
		"user,publish=8080:80,mac=02:00:5e:10:00:01,publish=127.0.0.1:53:53/udp": {
			kind: "user", mac: some, queues: 1, publish: []user.Publish{
				{Protocol: "tcp", HostPort: 8080, GuestPort: 80},
				{Protocol: "udp", Host: netip.MustParseAddr("127.0.0.1"), HostPort: 53, GuestPort: 53},
			},
		},
	} {
		if got, err := parseNet(arg); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", arg, got, err, want)
		}
	}
	a, errA := parseNet("tap=t")
	b, errB := parseNet("tap=t")
	if errA != nil || errB != nil || a.mac == b.mac || a.mac[0]&3 != 2 {
		t.Errorf("addresses %v and %v, %v, %v", a.mac, b.mac, errA, errB)
	}
	for arg, want := range map[string]string{
		"tap=t,": "write tap=NAME", "tap=t,fast": "write tap=NAME", "tap=t,mac=x": "is not the Ethernet address", "tap=t,queues=0": "between 1 and 64",
		"tap=t,queues=65": "between 1 and 64", "tap=t,queues=": "between 1 and 64", "tap=t,rate=": "is not a rate", "tap=t,ops=-1": "is not a rate",
		"user,publish=80": "write publish=", "user,publish=0:80": "is not a port", "user,queues=2": "one pair", "tap=t,publish=80:80": "only a network of the kind user",
	} {
		if _, err := parseNet(arg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
}

func TestSplitDisk(t *testing.T) {
	rate := ratelimit.Config{Bytes: ratelimit.Rate{PerSecond: 1 << 20}}
	both := ratelimit.Config{Bytes: ratelimit.Rate{PerSecond: 1}, Operations: ratelimit.Rate{PerSecond: 5, Burst: 6}}
	for arg, want := range map[string]struct {
		path     string
		readOnly bool
		limit    ratelimit.Config
	}{
		"disk.img":                {path: "disk.img"},
		"disk.img,ro":             {path: "disk.img", readOnly: true},
		"a,b,ro":                  {path: "a,b", readOnly: true},
		"a,roo":                   {path: "a,roo"},
		"ro":                      {path: "ro"},
		"disk.img,rate=1M":        {path: "disk.img", limit: rate},
		"disk.img,ro,rate=1M":     {path: "disk.img", readOnly: true, limit: rate},
		"disk.img,rate=1M,ro":     {path: "disk.img", readOnly: true, limit: rate},
		"disk,rate=1M,x":          {path: "disk,rate=1M,x"},
		"disk.img,ops=5:6,rate=1": {path: "disk.img", limit: both},
	} {
		path, readOnly, limit, err := splitDisk(arg)
		if err != nil || path != want.path || readOnly != want.readOnly || limit != want.limit {
			t.Errorf("%s: %q, %v, %+v, %v", arg, path, readOnly, limit, err)
		}
	}
	if _, _, _, err := splitDisk("disk.img,rate=fast"); err == nil || !strings.Contains(err.Error(), `"fast" is not a rate`) {
		t.Error(err)
	}
}

// TestNetwork makes devices on TAPs, in a network namespace of its own.
func TestNetwork(t *testing.T) {
	need.TAP(t)
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	cfg := vmm.Config{Logger: slog.New(slog.DiscardHandler)}
	b := &builder{}
	for _, arg := range []string{"tap=gv%d,mac=02:00:5e:10:00:01", "tap=gv%d,queues=3"} {
		if err := b.network(&cfg, arg); err != nil {
			t.Fatalf("%s: %v", arg, err)
		}
	}
	for i, queues := range []int{3, 7} {
		d := cfg.Devices[i]
		if d.ID() != virtio.IDNet || len(d.Queues()) != queues || binary.LittleEndian.Uint16(d.Config()[10:]) != 1500 {
			t.Errorf("device %d is of type %d, with %d queues, config % x", i, d.ID(), len(d.Queues()), d.Config())
		}
	}
	if got := net.MAC(cfg.Devices[0].Config()); got.String() != "02:00:5e:10:00:01" {
		t.Errorf("address %v", got)
	}
	for arg, want := range map[string]string{
		"tap=gv0": "another program uses", "tap=gv0,queues=2": "another program uses", "tap": "write tap=NAME", "tap=": "write tap=NAME",
		"": "write tap=NAME", "tup=x": "write tap=NAME", "user=x": "write tap=NAME", "tap=x,mac=01:00:00:00:00:00": "is not the Ethernet address",
	} {
		if err := b.network(&cfg, arg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
	b.cleanup()
	if _, err := tap.MTU("gv0"); err == nil {
		t.Error("an interface is left")
	}
}
