package network

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

const (
	// register is where expressions leave what the next ones look at.
	register = unix.NFT_REG_1
	second   = unix.NFT_REG_2
)

// expression is one step of a rule.
type expression struct {
	name   string
	encode func(*attributeEncoder)
}

func bigEndian(e *attributeEncoder, kind uint16, v uint32) {
	e.Bytes(kind, binary.BigEndian.AppendUint32(nil, v))
}

// loadInto puts a value into a register.
func loadInto(register uint32, value []byte) expression {
	return expression{"immediate", func(e *attributeEncoder) {
		bigEndian(e, unix.NFTA_IMMEDIATE_DREG, register)
		nested(e, unix.NFTA_IMMEDIATE_DATA, func(e *attributeEncoder) { e.Bytes(unix.NFTA_DATA_VALUE, value) })
	}}
}

func load(value []byte) expression { return loadInto(register, value) }

// forward sends the frame out of the interface whose index is in the register.
func forward() expression {
	return expression{"fwd", func(e *attributeEncoder) { bigEndian(e, unix.NFTA_FWD_SREG_DEV, register) }}
}

// verdict ends the way of a frame through the chain.
func verdict(code uint32) expression {
	return expression{"immediate", func(e *attributeEncoder) {
		bigEndian(e, unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		nested(e, unix.NFTA_IMMEDIATE_DATA, func(e *attributeEncoder) {
			nested(e, unix.NFTA_DATA_VERDICT, func(e *attributeEncoder) { bigEndian(e, unix.NFTA_VERDICT_CODE, code) })
		})
	}}
}

// duplicate sends a copy there.
func duplicate() expression {
	return expression{"dup", func(e *attributeEncoder) { bigEndian(e, unix.NFTA_DUP_SREG_DEV, register) }}
}

// meta loads what the kernel knows of a frame.
func meta(key uint32) expression {
	return expression{"meta", func(e *attributeEncoder) {
		bigEndian(e, unix.NFTA_META_DREG, register)
		bigEndian(e, unix.NFTA_META_KEY, key)
	}}
}

// payload loads bytes of a frame, from the beginning of its header of a layer (NFT_PAYLOAD_*).
func payload(base, offset, length uint32) expression {
	return expression{"payload", func(e *attributeEncoder) {
		bigEndian(e, unix.NFTA_PAYLOAD_DREG, register)
		bigEndian(e, unix.NFTA_PAYLOAD_BASE, base)
		bigEndian(e, unix.NFTA_PAYLOAD_OFFSET, offset)
		bigEndian(e, unix.NFTA_PAYLOAD_LEN, length)
	}}
}

// compare goes on if the register holds a value, or with NFT_CMP_NEQ if it does not.
func compare(op uint32, value []byte) expression {
	return expression{"cmp", func(e *attributeEncoder) {
		bigEndian(e, unix.NFTA_CMP_SREG, register)
		bigEndian(e, unix.NFTA_CMP_OP, op)
		nested(e, unix.NFTA_CMP_DATA, func(e *attributeEncoder) { e.Bytes(unix.NFTA_DATA_VALUE, value) })
	}}
}

func equal(value ...byte) expression { return compare(unix.NFT_CMP_EQ, value) }

// redirect sends a connection to this machine's own port that is in the register.
func redirect() expression {
	return expression{"redir", func(e *attributeEncoder) { bigEndian(e, unix.NFTA_REDIR_REG_PROTO_MIN, register) }}
}

// destinationNAT sends a connection to the IPv4 address and the port that are in the two registers.
func destinationNAT() expression {
	return expression{"nat", func(e *attributeEncoder) {
		bigEndian(e, unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
		bigEndian(e, unix.NFTA_NAT_FAMILY, unix.NFPROTO_IPV4)
		bigEndian(e, unix.NFTA_NAT_REG_ADDR_MIN, register)
		bigEndian(e, unix.NFTA_NAT_REG_PROTO_MIN, second)
	}}
}

// masquerade gives a connection the address of the interface by which it leaves, and a port between those in the two registers.
func masquerade() expression {
	const rangeOfPorts = 2 // NF_NAT_RANGE_PROTO_SPECIFIED (linux/netfilter/nf_nat.h): the kernel does not conclude it
	return expression{"masq", func(e *attributeEncoder) {
		bigEndian(e, unix.NFTA_MASQ_FLAGS, rangeOfPorts)
		bigEndian(e, unix.NFTA_MASQ_REG_PROTO_MIN, register)
		bigEndian(e, unix.NFTA_MASQ_REG_PROTO_MAX, second)
	}}
}
