// Package network gives a guest the network of the namespace that its container was given.
//
// The monitor is in that namespace. A Manager takes down what is in it, interfaces, addresses, routes, neighbours and rules, as
// the kernel's own netlink messages, connects each interface with a TAP, and makes, from what is there and what the guest
// has, the netlink requests that the guest's kernel is to carry out. PID 1 only passes them on: what is not known here, such as
// an attribute of a route, arrives all the same.
//
// All that is made in the namespace lives as long as the process: a TAP goes with its descriptor, and the nftables tables are owned by
// a socket, whose end removes them (NFT_TABLE_F_OWNER). A monitor that is killed leaves the namespace as it was found. That, besides
// being fewer messages, is why frames go by nftables' ingress hook, and not by tc's redirection as in Kata Containers: tc's
// filters would stay, and swallow every frame.
package network

import (
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// conn is a netlink socket of the calling thread's network namespace.
type conn struct{ *netlink.Conn }

func dial(protocol int) (conn, error) {
	c, err := netlink.Dial(protocol, nil)
	if err != nil {
		return conn{}, fmt.Errorf("netlink: %w", err)
	}
	return conn{c}, nil
}

// execute carries out requests, one after the other. Each says what it is for.
func (c conn) execute(requests ...request) error {
	for _, r := range requests {
		if _, err := c.Execute(r.message()); err != nil {
			return fmt.Errorf("%s: %w", r.what, plain(err))
		}
	}
	return nil
}

// dump asks for all objects of a kind. header is the fixed part of its messages.
func (c conn) dump(kind uint16, header []byte) ([]netlink.Message, error) {
	return c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | netlink.Dump},
		Data:   header,
	})
}

// plain takes the library's words off an error.
func plain(err error) error {
	if op := (*netlink.OpError)(nil); errors.As(err, &op) {
		if op.Message != "" {
			return fmt.Errorf("%w: %s", op.Err, op.Message)
		}
		err = op.Err
	}
	if e := (*os.SyscallError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// request is a netlink request that changes something.
type request struct {
	kind  uint16
	flags netlink.HeaderFlags
	data  []byte
	what  string // for errors
}

// create is the flags of a request for what may be there already.
const create = netlink.Create | netlink.Replace

func (r request) message() netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Length: uint32(headerLen + len(r.data)), Type: netlink.HeaderType(r.kind), Flags: netlink.Request | netlink.Acknowledge | r.flags},
		Data:   r.data,
	}
}

// attributeEncoder is the library's.
type attributeEncoder = netlink.AttributeEncoder

// headerLen is the length of struct nlmsghdr.
const headerLen = unix.SizeofNlMsghdr

// attributes encodes attributes; what cannot be encoded is a fault of ours.
func attributes(f func(*attributeEncoder)) []byte {
	e := netlink.NewAttributeEncoder()
	f(e)
	b, err := e.Encode()
	if err != nil {
		panic("network: " + err.Error())
	}
	return b
}

func nested(e *attributeEncoder, kind uint16, f func(*attributeEncoder)) {
	e.Nested(kind, func(e *attributeEncoder) error {
		f(e)
		return nil
	})
}
