package network

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// What there is of nftables here is what it takes to send frames from one interface to another. The libraries for it lack fwd, or
// the owner's flag.

// family is nftables' family of tables (linux/netfilter.h).
type family uint8

const (
	familyInet   family = 1
	familyIPv4   family = 2
	familyNetdev family = 5
)

// table is a table of rules.
type table struct {
	family family
	name   string
}

const (
	tableOwner      = 2 // NFT_TABLE_F_OWNER
	hookIngress     = 0 // NF_NETDEV_INGRESS
	hookOutput      = 3 // NF_INET_LOCAL_OUT
	hookPostrouting = 4 // NF_INET_POST_ROUTING
	priorityDNAT    = -100
	prioritySNAT    = 100
)

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
	if _, err := c.SendMessages(batchOf(messages)); err != nil {
		return plain(err)
	}
	_, err := c.Receive()
	return plain(err)
}

// batchOf encloses messages, the last of which asks for an acknowledgement.
func batchOf(messages []netlink.Message) []netlink.Message {
	all := []netlink.Message{nfMessageOf(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.NFNL_SUBSYS_NFTABLES, 0, nil)}
	for i, m := range messages {
		if i == len(messages)-1 {
			m.Header.Flags |= netlink.Acknowledge
		}
		all = append(all, m)
	}
	return append(all, nfMessageOf(unix.NFNL_MSG_BATCH_END, 0, unix.NFNL_SUBSYS_NFTABLES, 0, nil))
}

// encodeBatch makes the bytes of a batch, for another kernel.
func encodeBatch(messages ...netlink.Message) []byte {
	var out []byte
	for _, m := range batchOf(messages) {
		m.Header.Length = uint32(headerLen + len(m.Data))
		b, err := m.MarshalBinary()
		if err != nil {
			panic("network: " + err.Error())
		}
		out = append(out, b...)
	}
	return out
}

// create makes a table that belongs to the socket on which this is sent, and goes with it.
func (t table) create() netlink.Message { return t.createWith(tableOwner) }

func (t table) createWith(flags uint32) netlink.Message {
	return nfMessage(unix.NFT_MSG_NEWTABLE, t.family, netlink.Create|netlink.Excl, attributes(func(e *attributeEncoder) {
		e.String(unix.NFTA_TABLE_NAME, t.name)
		bigEndian(e, unix.NFTA_TABLE_FLAGS, flags)
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

// rule makes a rule behind those of the chain.
func (t table) rule(chain string, expressions ...expression) netlink.Message {
	return t.ruleWith(netlink.Append, chain, expressions)
}

// firstRule makes a rule before those of the chain.
func (t table) firstRule(chain string, expressions ...expression) netlink.Message {
	return t.ruleWith(0, chain, expressions)
}

func (t table) ruleWith(flags netlink.HeaderFlags, chain string, expressions []expression) netlink.Message {
	return nfMessage(unix.NFT_MSG_NEWRULE, t.family, netlink.Create|flags, attributes(func(e *attributeEncoder) {
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

// errNFT explains why a table could not be made.
func errNFT(err error) error {
	for _, lacking := range []unix.Errno{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EINVAL, unix.EAFNOSUPPORT} {
		if errors.Is(err, lacking) {
			return fmt.Errorf("nftables: %w: the host's kernel needs CONFIG_NF_TABLES_NETDEV and CONFIG_NFT_FWD_NETDEV, and Linux 5.12 or later", err)
		}
	}
	// EPERM is another owner's table: making a TAP has taken every right that this takes.
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EPERM) {
		return errors.New("the network namespace has another micro-VM's redirections: containers that share one come with pods, and until then each needs its own")
	}
	return fmt.Errorf("nftables: %w", err)
}
