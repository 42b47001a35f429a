package network

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// What there is of nftables here is what it takes to send frames from one interface to another. The libraries for it lack fwd, or
// the owner's flag.

// family is nftables' family of tables (linux/netfilter.h).
type family uint8

const familyNetdev family = 5

// table is a table that belongs to a socket, and goes with it.
type table struct {
	family family
	name   string
}

const (
	tableOwner  = 2 // NFT_TABLE_F_OWNER
	hookIngress = 0 // NF_NETDEV_INGRESS
)

// register is where expressions leave what the next ones look at.
const register = unix.NFT_REG_1

// chain is a base chain.
type chain struct {
	name     string
	kind     string // filter or nat
	hook     uint32
	priority int32
	device   string // of the netdev family
}

// nfMessage is a message about nftables.
func nfMessage(kind uint16, f family, flags netlink.HeaderFlags, data []byte) netlink.Message {
	return nfMessageOf(unix.NFNL_SUBSYS_NFTABLES<<8|kind, f, 0, flags, data)
}

// nfMessageOf puts struct nfgenmsg before the data.
func nfMessageOf(kind uint16, f family, resource uint16, flags netlink.HeaderFlags, data []byte) netlink.Message {
	head := []byte{byte(f), unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}
	return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags}, Data: append(head, data...)}
}

// batch carries out messages all together, or none.
func (c conn) batch(messages ...netlink.Message) error {
	all := []netlink.Message{nfMessageOf(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.NFNL_SUBSYS_NFTABLES, 0, nil)}
	for i, m := range messages {
		if i == len(messages)-1 {
			m.Header.Flags |= netlink.Acknowledge
		}
		all = append(all, m)
	}
	all = append(all, nfMessageOf(unix.NFNL_MSG_BATCH_END, 0, unix.NFNL_SUBSYS_NFTABLES, 0, nil))
	if _, err := c.SendMessages(all); err != nil {
		return plain(err)
	}
	_, err := c.Receive()
	return plain(err)
}

func (t table) create() netlink.Message {
	return nfMessage(unix.NFT_MSG_NEWTABLE, t.family, netlink.Create|netlink.Excl, attributes(func(e *attributeEncoder) {
		e.String(unix.NFTA_TABLE_NAME, t.name)
		bigEndian(e, unix.NFTA_TABLE_FLAGS, tableOwner)
	}))
}

func (t table) remove() netlink.Message {
	return nfMessage(unix.NFT_MSG_DELTABLE, t.family, 0, attributes(func(e *attributeEncoder) { e.String(unix.NFTA_TABLE_NAME, t.name) }))
}

func (t table) chain(c chain) netlink.Message {
	return nfMessage(unix.NFT_MSG_NEWCHAIN, t.family, netlink.Create, attributes(func(e *attributeEncoder) {
		e.String(unix.NFTA_CHAIN_TABLE, t.name)
		e.String(unix.NFTA_CHAIN_NAME, c.name)
		nested(e, unix.NFTA_CHAIN_HOOK, func(e *attributeEncoder) {
			bigEndian(e, unix.NFTA_HOOK_HOOKNUM, c.hook)
			bigEndian(e, unix.NFTA_HOOK_PRIORITY, uint32(c.priority))
			if c.device != "" {
				e.String(unix.NFTA_HOOK_DEV, c.device)
			}
		})
		e.String(unix.NFTA_CHAIN_TYPE, c.kind)
	}))
}

func (t table) rule(chain string, expressions ...expression) netlink.Message {
	return nfMessage(unix.NFT_MSG_NEWRULE, t.family, netlink.Create|netlink.Append, attributes(func(e *attributeEncoder) {
		e.String(unix.NFTA_RULE_TABLE, t.name)
		e.String(unix.NFTA_RULE_CHAIN, chain)
		nested(e, unix.NFTA_RULE_EXPRESSIONS, func(e *attributeEncoder) {
			for _, x := range expressions {
				nested(e, unix.NFTA_LIST_ELEM, func(e *attributeEncoder) {
					e.String(unix.NFTA_EXPR_NAME, x.name)
					nested(e, unix.NFTA_EXPR_DATA, x.encode)
				})
			}
		})
	}))
}

// expression is one step of a rule.
type expression struct {
	name   string
	encode func(*attributeEncoder)
}

func bigEndian(e *attributeEncoder, kind uint16, v uint32) {
	e.Bytes(kind, binary.BigEndian.AppendUint32(nil, v))
}

// load puts a value into the register.
func load(value []byte) expression {
	return expression{"immediate", func(e *attributeEncoder) {
		bigEndian(e, unix.NFTA_IMMEDIATE_DREG, register)
		nested(e, unix.NFTA_IMMEDIATE_DATA, func(e *attributeEncoder) { e.Bytes(unix.NFTA_DATA_VALUE, value) })
	}}
}

// forward sends the frame out of the interface whose index is in the register.
func forward() expression {
	return expression{"fwd", func(e *attributeEncoder) { bigEndian(e, nftaFwdDevice, register) }}
}

// nftaFwdDevice is NFTA_FWD_SREG_DEV (linux/netfilter/nf_tables.h).
const nftaFwdDevice = 1

// errNFT explains why a table could not be made.
func errNFT(err error) error {
	for _, lacking := range []unix.Errno{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EINVAL, unix.EAFNOSUPPORT} {
		if errors.Is(err, lacking) {
			return fmt.Errorf("nftables: %w: the host's kernel needs CONFIG_NF_TABLES_NETDEV and CONFIG_NFT_FWD_NETDEV, and Linux 5.12 or later", err)
		}
	}
	return fmt.Errorf("nftables: %w", err)
}
