package vsock

import "encoding/binary"

// headerSize is the size of struct virtio_vsock_hdr (virtio 1.2 §5.10.6).
const headerSize = 44

// typeStream is the only socket type that the device offers (virtio 1.2 §5.10.6.2).
const typeStream = 1

// Operations (virtio 1.2 §5.10.6).
const (
	opRequest       = 1
	opResponse      = 2
	opRst           = 3
	opShutdown      = 4
	opRW            = 5
	opCreditUpdate  = 6
	opCreditRequest = 7
)

// Flags of a SHUTDOWN packet: its sender will not receive, will not send any more.
const (
	shutdownReceive = 1
	shutdownSend    = 2
	shutdownBoth    = shutdownReceive | shutdownSend
)

// eventTransportReset tells the driver that its connections are gone and that the CID may be another one
// (virtio 1.2 §5.10.6.7).
const eventTransportReset = 0

// header is struct virtio_vsock_hdr.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	length           uint32 // of the payload, in bytes
	kind             uint16 // socket type
	op               uint16
	flags            uint32
	bufAlloc         uint32 // the sender's receive buffer, in bytes
	fwdCnt           uint32 // bytes that the sender has taken out of it, ever
}

func parseHeader(p *[headerSize]byte) header {
	le := binary.LittleEndian
	return header{
		srcCID: le.Uint64(p[0:]), dstCID: le.Uint64(p[8:]), srcPort: le.Uint32(p[16:]), dstPort: le.Uint32(p[20:]),
		length: le.Uint32(p[24:]), kind: le.Uint16(p[28:]), op: le.Uint16(p[30:]), flags: le.Uint32(p[32:]),
		bufAlloc: le.Uint32(p[36:]), fwdCnt: le.Uint32(p[40:]),
	}
}

func (h *header) put(p *[headerSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(p[0:], h.srcCID)
	le.PutUint64(p[8:], h.dstCID)
	le.PutUint32(p[16:], h.srcPort)
	le.PutUint32(p[20:], h.dstPort)
	le.PutUint32(p[24:], h.length)
	le.PutUint16(p[28:], h.kind)
	le.PutUint16(p[30:], h.op)
	le.PutUint32(p[32:], h.flags)
	le.PutUint32(p[36:], h.bufAlloc)
	le.PutUint32(p[40:], h.fwdCnt)
}
