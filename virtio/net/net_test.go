package net

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/govmm/govmm/virtio"
	"github.com/govmm/govmm/virtio/ratelimit"
	"github.com/govmm/govmm/virtio/virtiotest"
)

func TestNewRefuses(t *testing.T) {
	link := &fakeLink{}
	for want, cfg := range map[string]Config{
		"no link":                {MAC: testMAC},
		"65 pairs":               {MAC: testMAC, Link: &fakeLink{pairs: 65}},
		"no station's address":   {Link: link},
		"01:00:00:00:00:00 is":   {Link: link, MAC: MAC{1}},
		"an MTU of 67":           {Link: link, MAC: testMAC, MTU: 67},
		"a queue size of 100":    {Link: link, MAC: testMAC, QueueSize: 100},
		"a queue size of 2048":   {Link: link, MAC: testMAC, QueueSize: 2048},
		"a speed of 2147483648 ": {Link: link, MAC: testMAC, Speed: 1 << 31},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestParseMAC(t *testing.T) {
	if m, err := ParseMAC("02:00:5e:10:0A:ff"); err != nil || m.String() != "02:00:5e:10:0a:ff" {
		t.Errorf("%v, %v", m, err)
	}
	for _, s := range []string{
		"", "02:00:5e:10:00", "02-00-5e-10-00-01", "03:00:5e:10:00:01", "00:00:00:00:00:00", "02:00:5e:10:00:0g", "02:00:5e:10:00:01 ",
		"02:00:5e:10:00:+1", "02:00:5e:10:00:001",
	} {
		if m, err := ParseMAC(s); err == nil {
			t.Errorf("%q is taken for %v", s, m)
		}
	}
}

// TestOffer: nothing is offered that the link cannot do, nor anything that makes no sense without what is missing.
func TestOffer(t *testing.T) {
	always := FeatureMAC | FeatureStatus | FeatureSpeedDuplex | FeatureMergeable | FeatureCtrlQueue | FeatureCtrlMACAddr |
		FeatureGuestAnnounce | FeatureCtrlRX
	for _, tt := range []struct {
		name string
		cfg  Config
		want uint64
	}{
		{"nothing", Config{Link: &fakeLink{}}, always},
		{"everything", Config{Link: &fakeLink{features: ^uint64(0), pairs: 3}, MTU: 9000},
			always | allOffloads | FeatureMTU | FeatureMultiQueue | FeatureCtrlGuestOffloads},
		{"segments without checksums", Config{Link: &fakeLink{features: FeatureGuestTSO4 | FeatureHostUSO | FeatureHostECN}}, always},
		{"ECN without segments", Config{Link: &fakeLink{features: FeatureGuestECN | FeatureGuestCSum}},
			always | FeatureGuestCSum | FeatureCtrlGuestOffloads},
		{"no filter", Config{Link: struct{ Link }{&fakeLink{}}}, always &^ FeatureCtrlRX},
	} {
		if d := newDevice(t, tt.cfg); d.Features() != tt.want {
			t.Errorf("%s: %#x, want %#x", tt.name, d.Features(), tt.want)
		}
	}
}

func TestConfigSpace(t *testing.T) {
	g := newGuest(t, Config{Link: &fakeLink{pairs: 3}, MTU: 1400, Speed: 2500}, virtiotest.Options{})
	if id := g.Read32(virtio.RegDeviceID); id != 1 {
		t.Errorf("device ID %d", id)
	}
	want := []byte{2, 0, 0, 0, 0, 1, statusLinkUp, 0, 3, 0, 0x78, 5, 0xc4, 9, 0, 0, 1, 0, 0, 0}
	g.Write32(virtio.RegConfig, 0xffffffff) // nothing is writable
	if got := g.ReadConfig(0, configSize); !slices.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
	if n := len(g.Queues); n != 7 {
		t.Errorf("%d queues", n)
	}
}

// TestTransmit: every byte reaches the link, however the driver divides it, and one interrupt tells of a batch.
func TestTransmit(t *testing.T) {
	for _, without := range []uint64{0, virtio.FeatureEventIdx, virtio.FeatureIndirectDesc} {
		g := newGuest(t, Config{}, virtiotest.Options{Manual: true, Without: without})
		q := g.Queue(1)
		var want [][]byte
		for i := range 20 {
			f := append([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, frame(14+i*3000, i)...)
			want = append(want, f)
			q.Add([][]byte{f[:i%13+1], f[i%13+1 : 14+i%7], f[14+i%7:]})
		}
		q.Kick()
		if got := g.link.frames(0); !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("without %#x: %d frames sent, or they differ", without, len(got))
		}
		if n := len(q.Reap()); n != 20 || g.Interrupts() != 1 {
			t.Errorf("without %#x: %d chains came back, %d interrupts", without, n, g.Interrupts())
		}
		if s := g.dev.Stats(); s.TX.Frames != 20 || s.TX.Bytes != uint64(20*14+190*3000) || s.TX.Drops != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// TestBadFrames: what is no frame, or is none for the link, goes nowhere, and the device lives.
func TestBadFrames(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true, RAM: 8 << 20})
	q := g.Queue(1)
	q.Add([][]byte{{1}})
	q.Add([][]byte{make([]byte, minRoom-1)})
	q.Add(nil, 100)
	q.Add([][]byte{make([]byte, MaxFrame+1)})
	q.Add([][]byte{make([]byte, MaxFrame)})
	q.Add([][]byte{make([]byte, minRoom)}, 100) // a device-writable part is of no concern
	q.Kick()
	if n := len(q.Reap()); n != 6 || len(g.link.frames(0)) != 2 {
		t.Errorf("%d chains came back, %d frames sent", n, len(g.link.frames(0)))
	}
	for i, err := range []error{ErrBadFrame, errTest, ErrClosed} {
		g.link.sendErr = err
		q.Do([][]byte{make([]byte, 100)})
		if s := g.dev.Stats(); s.TX.Drops != uint64(5+i) || s.TX.Frames != 2 || g.Status()&virtio.StatusNeedsReset != 0 {
			t.Errorf("%v: %+v, status %#x", err, s, g.Status())
		}
	}
}

func TestTransmitDoesNotAllocate(t *testing.T) {
	r := newRaw(t)
	for i := range uint16(64) {
		r.Queue(1).SetDescriptor(i, virtiotest.Descriptor{Addr: uint64(virtiotest.RAMBase) + 2<<20, Len: rawBuffer})
	}
	if n := testing.AllocsPerRun(20, func() {
		for i := range uint16(64) {
			r.Queue(1).Publish(i)
		}
		if err := r.MMIO.Serve(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for 64 frames", n)
	}
}

// TestFeaturesReachTheLink: the link hears what the driver takes, and after a reset that it takes nothing.
func TestFeaturesReachTheLink(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true, Without: FeatureGuestTSO6 | FeatureGuestUFO})
	taken := guestOffloads &^ (FeatureGuestTSO6 | FeatureGuestUFO)
	if got := g.link.offloads; len(got) != 1 || got[0] != taken {
		t.Errorf("%#x, want %#x", got, taken)
	}
	if got := g.link.filters; len(got) != 1 || !got[0].Promiscuous {
		t.Errorf("%+v, want all frames", got)
	}
	offloads := func(v uint64) byte {
		return g.command(classGuestOffloads, cmdSetOffloads, binary.LittleEndian.AppendUint64(nil, v)...)
	}
	for _, tt := range []struct {
		ask, get uint64
		answer   byte
	}{
		{FeatureGuestCSum | FeatureGuestTSO4, FeatureGuestCSum | FeatureGuestTSO4, answerOK},
		{FeatureGuestTSO4, 0, answerOK}, // nothing without checksums
		{taken, taken, answerOK},
		{FeatureGuestCSum | FeatureGuestTSO6, taken, answerError},
		{1 << 61, taken, answerError},
	} {
		if got := offloads(tt.ask); got != tt.answer || g.link.offloads[len(g.link.offloads)-1] != tt.get {
			t.Errorf("%#x: answer %d, the link has %#x", tt.ask, got, g.link.offloads)
		}
	}
	g.Reset()
	if got := g.link.offloads[len(g.link.offloads)-1]; got != 0 {
		t.Errorf("%#x after a reset", got)
	}
}

func table(unicast, multicast []MAC) []byte {
	var p []byte
	for _, list := range [][]MAC{unicast, multicast} {
		p = binary.LittleEndian.AppendUint32(p, uint32(len(list)))
		for _, m := range list {
			p = append(p, m[:]...)
		}
	}
	return p
}

func TestFilter(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true})
	last := func() Filter { return g.link.filters[len(g.link.filters)-1] }
	check := func(answer byte, promiscuous, allMulticast bool, addresses ...MAC) {
		t.Helper()
		f := last()
		if answer != answerOK || f.Promiscuous != promiscuous || f.AllMulticast != allMulticast || !slices.Equal(f.Addresses, addresses) {
			t.Errorf("answer %d, %+v", answer, f)
		}
	}
	group, other := MAC{0x33, 0x33, 0, 0, 0, 1}, MAC{2, 2, 2, 2, 2, 2}
	check(g.command(classRX, cmdPromiscuous, 0), false, false, testMAC, Broadcast)
	check(g.command(classRX, cmdAllMulticast, 1), false, true, testMAC, Broadcast)
	check(g.command(classRX, cmdAllMulticast, 0), false, false, testMAC, Broadcast)
	check(g.command(classMAC, cmdTable, table([]MAC{other}, []MAC{group})...), false, false, testMAC, Broadcast, other, group)
	check(g.command(classMAC, cmdAddress, other[:]...), false, false, other, Broadcast, other, group)
	if got := MAC(g.ReadConfig(0, 6)); got != other || g.dev.MAC() != other {
		t.Errorf("the address is %v", got)
	}
	check(g.command(classMAC, cmdTable, table(nil, make([]MAC, 65))...), false, true, other, Broadcast)
	check(g.command(classMAC, cmdTable, table(make([]MAC, 65), []MAC{group})...), true, false, other, Broadcast, group)
	check(g.command(classMAC, cmdTable, table(nil, nil)...), false, false, other, Broadcast)

	before := len(g.link.filters)
	for name, args := range map[string][]byte{
		"no second list": table(nil, nil)[:4], "too short": table([]MAC{other}, nil)[:9], "a lie": {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
	} {
		if got := g.command(classMAC, cmdTable, args...); got != answerError {
			t.Errorf("%s: answer %d", name, got)
		}
	}
	for _, m := range []MAC{{}, group} {
		if got := g.command(classMAC, cmdAddress, m[:]...); got != answerError {
			t.Errorf("address %v: answer %d", m, got)
		}
	}
	if len(g.link.filters) != before || g.dev.MAC() != other {
		t.Error("a bad command has changed something")
	}
	g.Reset()
	if !last().Promiscuous || g.dev.MAC() != testMAC {
		t.Errorf("after a reset: %+v, %v", last(), g.dev.MAC())
	}
}

// TestCommandsNeedTheirFeature, and those that do not exist are refused.
func TestCommandsNeedTheirFeature(t *testing.T) {
	const features = FeatureCtrlRX | FeatureCtrlMACAddr | FeatureGuestAnnounce | FeatureMultiQueue | FeatureCtrlGuestOffloads
	commands := [][]byte{
		append([]byte{classRX, cmdPromiscuous}, 1), append([]byte{classRX, cmdAllMulticast}, 1),
		append([]byte{classMAC, cmdTable}, table(nil, nil)...), append([]byte{classMAC, cmdAddress}, testMAC[:]...),
		{classAnnounce, cmdAcknowledge}, {classPairs, cmdSetPairs, 2, 0}, append([]byte{classGuestOffloads, cmdSetOffloads}, make([]byte, 8)...),
	}
	for _, without := range []uint64{0, features} {
		g := newGuest(t, Config{Link: &fakeLink{features: allOffloads, pairs: 2}}, virtiotest.Options{Manual: true, Without: without})
		for _, c := range commands {
			want := byte(answerOK)
			if without != 0 {
				want = answerError
			}
			if got := g.command(c[0], c[1], c[2:]...); got != want {
				t.Errorf("without %#x: command %v: answer %d", without, c, got)
			}
		}
		for _, c := range [][]byte{{classRX, 9, 1}, {classMAC, 2, 0}, {2, 0, 0, 0}, {77, 0}, {classPairs, 1, 2, 0}} {
			if got := g.command(c[0], c[1], c[2:]...); got != answerError {
				t.Errorf("command %v: answer %d", c, got)
			}
		}
	}
}

// TestCommandWithoutAnswer cannot be answered: the driver broke the rules.
func TestCommandWithoutAnswer(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true})
	g.Queue(2).Add([][]byte{{classAnnounce, cmdAcknowledge}})
	g.Queue(2).Kick()
	if g.Status()&virtio.StatusNeedsReset == 0 {
		t.Error("the device does not need a reset")
	}
	g.Init()
	if r := g.Queue(2).Do([][]byte{{classAnnounce}}, 1); r.Bytes()[0] != answerError {
		t.Errorf("half a header: %v", r.Bytes())
	}
}

func TestAnnounce(t *testing.T) {
	g := newGuest(t, Config{}, virtiotest.Options{Manual: true})
	g.dev.Announce()
	if got := g.ReadConfig(configStatus, 2); g.Ack() != virtio.InterruptConfig || got[0] != statusLinkUp|statusAnnounce {
		t.Errorf("status %v", got)
	}
	if got := g.command(classAnnounce, cmdAcknowledge); got != answerOK || g.ReadConfig(configStatus, 1)[0] != statusLinkUp {
		t.Errorf("answer %d", got)
	}
}

// TestPairs: only pairs in use receive; a pair taken into use receives what is there.
func TestPairs(t *testing.T) {
	link := &fakeLink{features: allOffloads, pairs: 3, wait: true}
	g := newGuest(t, Config{Link: link}, virtiotest.Options{})
	for i := range 3 {
		for range 30 {
			g.Queue(2*i).Add(nil, 4096)
		}
		g.Queue(2 * i).Kick()
		link.arrive(i, frame(100, i))
	}
	g.WaitInterrupt()
	same(t, g.collect(g.Queue(0).Reap()), frame(100, 0))
	for _, n := range []uint16{0, 4, 0xffff} {
		if got := g.command(classPairs, cmdSetPairs, byte(n), byte(n>>8)); got != answerError {
			t.Errorf("%d pairs: answer %d", n, got)
		}
	}
	if g.Queue(2).UsedIdx() != 0 || g.Queue(4).UsedIdx() != 0 {
		t.Error("a pair that is not in use received")
	}
	if got := g.command(classPairs, cmdSetPairs, 3, 0); got != answerOK {
		t.Fatalf("answer %d", got)
	}
	for i := 1; i < 3; i++ {
		virtiotest.Eventually(t, "a frame on another pair", func() bool { return g.Queue(2*i).UsedIdx() == 1 })
		same(t, g.collect(g.Queue(2*i).Reap()), frame(100, i))
		g.Queue(2*i + 1).Do([][]byte{make([]byte, 100+i)})
		if got := link.frames(i); len(got) != 1 || len(got[0]) != 100+i {
			t.Errorf("pair %d sent %d frames", i, len(got))
		}
	}
	g.Reset()
	g.Init()
	g.Queue(2).Add(nil, 4096)
	g.Queue(2).Kick()
	link.arrive(1, frame(100, 1))
	g.Queue(0).Add(nil, 4096)
	g.Queue(0).Kick()
	link.arrive(0, frame(100, 0))
	virtiotest.Eventually(t, "a frame after the reset", func() bool { return g.Queue(0).UsedIdx() == 1 })
	if g.Queue(2).UsedIdx() != 0 {
		t.Error("after the reset, a pair that is not in use received")
	}
}

// TestControlQueueMoves: a driver that does not know of several pairs finds the control queue behind the first.
func TestControlQueueMoves(t *testing.T) {
	g := newGuest(t, Config{Link: &fakeLink{pairs: 3}}, virtiotest.Options{Manual: true, Without: FeatureMultiQueue})
	if got := g.command(classAnnounce, cmdAcknowledge); got != answerOK {
		t.Errorf("answer %d", got)
	}
	g.Queue(6).Add([][]byte{{classAnnounce, cmdAcknowledge}}, 1)
	g.Queue(6).Kick()
	if len(g.Queue(6).Reap()) != 0 {
		t.Error("the last queue answers, too")
	}
}

// TestState: what the driver has set up survives a snapshot, and reaches the new link.
func TestState(t *testing.T) {
	g := newGuest(t, Config{Link: &fakeLink{features: allOffloads, pairs: 4}}, virtiotest.Options{Manual: true})
	group, other := MAC{1, 2, 3, 4, 5, 6}, MAC{2, 2, 2, 2, 2, 2}
	g.command(classRX, cmdPromiscuous, 0)
	g.command(classMAC, cmdTable, table([]MAC{other}, []MAC{group})...)
	g.command(classMAC, cmdAddress, other[:]...)
	g.command(classPairs, cmdSetPairs, 3, 0)
	g.command(classGuestOffloads, cmdSetOffloads, 1<<1, 0, 0, 0, 0, 0, 0, 0)
	state, err := g.MMIO.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	link := &fakeLink{features: allOffloads, pairs: 4}
	dev := newDevice(t, Config{Link: link})
	g.Move(dev)
	if err := g.MMIO.UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	want := Filter{Addresses: []MAC{other, Broadcast, other, group}}
	if f := link.filters; len(f) != 1 || f[0].Promiscuous || !slices.Equal(f[0].Addresses, want.Addresses) {
		t.Errorf("%+v, want %+v", f, want)
	}
	if dev.MAC() != other || dev.pairs.Load() != 3 || !slices.Equal(link.offloads, []uint64{FeatureGuestCSum}) {
		t.Errorf("%v, %v, %v", dev.MAC(), dev.pairs.Load(), link.offloads)
	}
	if again, err := g.MMIO.MarshalBinary(); err != nil || !slices.Equal(again, state) {
		t.Errorf("saved again: %v\n% x\n% x", err, again, state)
	}
}

func TestBadState(t *testing.T) {
	fresh := func() *Device { return newDevice(t, Config{Link: &fakeLink{features: allOffloads, pairs: 4}}) }
	d := fresh()
	d.Activate(d.Features(), nil)
	good, err := d.MarshalState()
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh().UnmarshalState(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(p []byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"longer":          func(p []byte) []byte { return append(p, 0) },
		"shorter":         func(p []byte) []byte { return p[:len(p)-1] },
		"version":         func(p []byte) []byte { p[0] = 9; return p },
		"a flag of 2":     func(p []byte) []byte { p[2] = 2; return p },
		"no driver":       func(p []byte) []byte { p[1] = 0; return p },
		"a group's MAC":   func(p []byte) []byte { p[7] |= 1; return p },
		"no pairs":        func(p []byte) []byte { p[13] = 0; return p },
		"too many pairs":  func(p []byte) []byte { p[13] = 5; return p },
		"many addresses":  func(p []byte) []byte { p[15] = 65; return append(p, make([]byte, 65*6)...) },
		"foreign feature": func(p []byte) []byte { p[22] |= 0x10; return p },
		"foreign offload": func(p []byte) []byte { p[27] |= 1; return p },
	} {
		if err := fresh().UnmarshalState(change(slices.Clone(good))); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestLimits: each direction is bounded by its own limiter, nothing is lost, and the driver hears of what is done before a pause.
func TestLimits(t *testing.T) {
	const rate, size, frames = 1 << 20, 1000, 100
	least := time.Duration((frames-1)*size-4096) * time.Second / rate
	limit := func() *ratelimit.Limiter {
		return ratelimit.New(ratelimit.Config{Bytes: ratelimit.Rate{PerSecond: rate, Burst: 4096}})
	}
	for _, direction := range []string{"rx", "tx"} {
		cfg := Config{Link: &fakeLink{features: allOffloads, wait: true}}
		if direction == "rx" {
			cfg.LimitRX = limit()
		} else {
			cfg.LimitTX = limit()
		}
		g := newGuest(t, cfg, virtiotest.Options{QueueSize: 256, Without: virtio.FeatureEventIdx})
		g.post(repeat(2048, 200)...)
		began := time.Now()
		for i := range frames {
			g.link.arrive(0, frame(size, i))
			g.Queue(1).Add([][]byte{append(make([]byte, HeaderSize), frame(size, i)...)})
		}
		g.Queue(0).Kick()
		g.Queue(1).Kick()
		first := map[string]int{"rx": 0, "tx": 1}[direction]
		virtiotest.Eventually(t, "an interrupt for the first frames", func() bool { return g.Queue(first).UsedIdx() > 0 && g.Interrupts() > 0 })
		for i, n := range []int{first, 1 - first} {
			virtiotest.Eventually(t, "all frames", func() bool { return g.Queue(n).UsedIdx() == frames })
			if took := time.Since(began); i == 0 && took < least {
				t.Errorf("%s: %d frames took %v, at least %v was due", direction, frames, took, least)
			}
		}
		if s := g.dev.Stats(); s.RX.Frames != frames || s.TX.Frames != frames {
			t.Errorf("%+v", s)
		}
		began = time.Now()
		cfg.LimitRX.Charge(100 << 20)
		cfg.LimitTX.Charge(100 << 20)
		g.Queue(1).Kick()
		if g.Reset(); time.Since(began) > 10*time.Second {
			t.Errorf("a reset took %v", time.Since(began))
		}
	}
}
