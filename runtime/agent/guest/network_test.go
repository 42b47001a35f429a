package guest

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/runtime/agent"
	"github.com/govmm/govmm/testhost/need"
)

// request is a netlink message.
func request(kind, flags uint16, body []byte) string {
	b := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...)
	return string(append(b, body...))
}

// TestNetwork asks the kernel what it answers and what it refuses, and reads on after that.
func TestNetwork(t *testing.T) {
	need.Root(t)
	nobody := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(nobody[4:], 1<<30)
	m := &agent.Network{Steps: []agent.NetworkStep{
		{Protocol: unix.NETLINK_ROUTE, Request: request(unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg))},
		{Protocol: unix.NETLINK_ROUTE, Request: request(unix.RTM_NEWLINK, unix.NLM_F_ACK, nobody)},
		{Sysctl: agent.Sysctl{Name: "core/no_such_file", Value: "1"}},
		{Protocol: 255, Request: "x"},
		{Protocol: unix.NETLINK_ROUTE, Request: request(unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg))},
	}}
	var r agent.Reply
	network(m, &r)
	for i, want := range []unix.Errno{0, unix.ENODEV, unix.ENOENT, unix.EPROTONOSUPPORT, 0} {
		if got := unix.Errno(r.Answers[i].Errno); got != want {
			t.Errorf("step %d: %v, want %v", i, got, want)
		}
		if lists := strings.Contains(r.Answers[i].Data, "lo\x00"); lists != (want == 0) {
			t.Errorf("step %d: %d bytes, which hold loopback: %v", i, len(r.Answers[i].Data), lists)
		}
	}
}
