package netstack

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/net/user"
)

// headerSize is that of struct virtio_net_hdr.
const headerSize = net.HeaderSize

// Of struct virtio_net_hdr (virtio 1.2 §5.1.6).
const (
	flagNeedsCSum = 1
	gsoTCPv4      = 1
	gsoTCPv6      = 4
)

// maxSegment is the largest packet that is left to the guest to cut up.
const maxSegment = 65535 - header.EthernetMinimumSize

// link is the stack's interface.
type link struct {
	mac      tcpip.LinkAddress
	send     func(buffers [][]byte) error
	offloads atomic.Uint64 // what the driver can take: features of virtio-net

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
}

// deliver hands the stack a frame. It is copied, into no more than it needs: what the stack keeps of it may be a few bytes.
func (l *link) deliver(frame []byte) {
	l.mu.RLock()
	d := l.dispatcher
	l.mu.RUnlock()
	if d == nil {
		return
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer p.DecRef()
	if !l.ParseHeader(p) {
		return
	}
	eth := header.Ethernet(p.LinkHeader().Slice())
	switch to := eth.DestinationAddress(); {
	case to == header.EthernetBroadcastAddress:
		p.PktType = tcpip.PacketBroadcast
	case header.IsMulticastEthernetAddress(to):
		p.PktType = tcpip.PacketMulticast
	default:
		p.PktType = tcpip.PacketHost
	}
	p.NetworkProtocolNumber = eth.Type()
	d.DeliverNetworkPacket(eth.Type(), p)
}

// segments are the features that let the guest be sent what is larger than its MTU.
const segments = net.FeatureGuestCSum | net.FeatureGuestTSO4 | net.FeatureGuestTSO6

// SupportedGSO implements stack.GSOEndpoint; it is asked when a connection is made.
func (l *link) SupportedGSO() stack.SupportedGSO {
	if l.offloads.Load()&segments == segments {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

// GSOMaxSize implements stack.GSOEndpoint.
func (l *link) GSOMaxSize() uint32 { return maxSegment }

// WritePackets implements stack.LinkWriter. What the guest does not take is lost.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for _, p := range list.AsSlice() {
		head, ok := l.header(p)
		if !ok {
			continue // of a connection from before the driver took less
		}
		_ = l.send(append([][]byte{head}, p.AsSlices()...))
	}
	return list.Len(), nil
}

// header is the one that a packet travels behind, if the driver can take it.
func (l *link) header(p *stack.PacketBuffer) ([]byte, bool) {
	h := make([]byte, headerSize)
	gso := &p.GSOOptions
	if gso.Type == stack.GSONone {
		return h, true
	}
	if l.SupportedGSO() != stack.HostGSOSupported {
		return nil, false
	}
	le := binary.LittleEndian
	le.PutUint16(h[2:], uint16(p.HeaderSize()))
	if gso.NeedsCsum {
		h[0] = flagNeedsCSum
		le.PutUint16(h[6:], header.EthernetMinimumSize+gso.L3HdrLen)
		le.PutUint16(h[8:], gso.CsumOffset)
	}
	if p.Data().Size() > int(gso.MSS) {
		h[1] = gsoTCPv4
		if gso.Type == stack.GSOTCPv6 {
			h[1] = gsoTCPv6
		}
		le.PutUint16(h[4:], gso.MSS)
	}
	return h, true
}

// sendFrame sends one that the stack knows nothing of.
func (l *link) sendFrame(frame []byte) { _ = l.send([][]byte{make([]byte, headerSize), frame}) }

// MTU implements stack.LinkEndpoint.
func (l *link) MTU() uint32 { return user.MTU }

// SetMTU implements stack.LinkEndpoint.
func (l *link) SetMTU(uint32) {}

// MaxHeaderLength implements stack.LinkEndpoint.
func (l *link) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// LinkAddress implements stack.LinkEndpoint.
func (l *link) LinkAddress() tcpip.LinkAddress { return l.mac }

// SetLinkAddress implements stack.LinkEndpoint.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.LinkEndpoint: checksums of what has crossed no wire are not looked at.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload | stack.CapabilityResolutionRequired
}

// Attach implements stack.LinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

// IsAttached implements stack.LinkEndpoint.
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// Wait implements stack.LinkEndpoint.
func (l *link) Wait() {}

// Close implements stack.LinkEndpoint.
func (l *link) Close() {}

// SetOnCloseAction implements stack.LinkEndpoint.
func (l *link) SetOnCloseAction(func()) {}

// ARPHardwareType implements stack.LinkEndpoint.
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements stack.LinkEndpoint.
func (l *link) AddHeader(p *stack.PacketBuffer) {
	header.Ethernet(p.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: p.EgressRoute.LocalLinkAddress, DstAddr: p.EgressRoute.RemoteLinkAddress, Type: p.NetworkProtocolNumber,
	})
}

// ParseHeader implements stack.LinkEndpoint.
func (l *link) ParseHeader(p *stack.PacketBuffer) bool {
	_, ok := p.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)
