package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/govmm/govmm/guestkernel"
	"github.com/govmm/govmm/virtio/net"
	"github.com/govmm/govmm/virtio/net/tap"
	"github.com/govmm/govmm/virtio/net/user"
	"github.com/govmm/govmm/virtio/ratelimit"
	"github.com/govmm/govmm/vmm"
)

// netOptions are those of one --net.
type netOptions struct {
	kind, name string // what the network is, and its argument
	publish    []user.Publish
	mac        net.MAC
	queues     int
	limit      ratelimit.Config
}

// maxNetQueues bounds a network's pairs of queues.
const maxNetQueues = 64

// errNetForm says how --net is written.
var errNetForm = errors.New("write tap=NAME[,mac=ADDRESS][,queues=N][,rate=N][,ops=N], or user[,publish=HOSTPORT:GUESTPORT]... and the same but for queues")

func parseNet(arg string) (o netOptions, err error) {
	first, rest, more := strings.Cut(arg, ",")
	o.kind, o.name, _ = strings.Cut(first, "=")
	o.queues = 1
	for more {
		var option string
		option, rest, more = strings.Cut(rest, ",")
		if err := o.set(option); err != nil {
			return o, err
		}
	}
	if o.mac == (net.MAC{}) {
		_, _ = rand.Read(o.mac[:]) // never fails
		o.mac[0] = o.mac[0]&^1 | 2 // one station's, administered locally
	}
	return o, nil
}

func (o *netOptions) set(option string) (err error) {
	key, value, _ := strings.Cut(option, "=")
	switch key {
	case "mac":
		o.mac, err = net.ParseMAC(value)
		return err
	case "publish":
		p, err := user.ParsePublish(value)
		o.publish = append(o.publish, p)
		if err == nil && o.kind != "user" {
			err = errors.New("publish: only a network of the kind user has ports")
		}
		return err
	case "queues":
		if o.kind == "user" {
			return errors.New("queues: a network of the kind user has one pair")
		}
		if o.queues, err = strconv.Atoi(value); err != nil || o.queues < 1 || o.queues > maxNetQueues {
			return fmt.Errorf("queues=%s: between 1 and %d are possible", value, maxNetQueues)
		}
		return nil
	}
	taken, err := o.limit.Set(option)
	if err == nil && !taken {
		return fmt.Errorf("%q: %w", option, errNetForm)
	}
	return err
}

// network adds a network device.
func (b *builder) network(cfg *vmm.Config, arg string) error {
	o, err := parseNet(arg)
	if err != nil {
		return err
	}
	dev := net.Config{
		MAC: o.mac, LimitRX: ratelimit.New(o.limit), LimitTX: ratelimit.New(o.limit), Logger: cfg.Logger,
	}
	first, _, _ := strings.Cut(arg, ",")
	switch named := strings.Contains(first, "="); {
	case o.kind == "tap" && o.name != "":
		err = b.tap(&dev, o)
	case o.kind == "user" && !named:
		err = b.user(&dev, o)
	default:
		err = errNetForm
	}
	if err != nil {
		return err
	}
	d, err := net.New(dev)
	if err != nil {
		return err
	}
	cfg.Devices = append(cfg.Devices, d)
	return nil
}

func (b *builder) tap(dev *net.Config, o netOptions) error {
	link, err := tap.New(tap.Config{Name: o.name, Pairs: o.queues})
	if err != nil {
		return err
	}
	b.onCleanup(func() { link.Close() })
	dev.Link = link
	dev.MTU, err = tap.MTU(link.Name())
	return err
}

// user starts a network in user mode, in this process's network namespace.
func (b *builder) user(dev *net.Config, o netOptions) error {
	assets, err := guestkernel.Open()
	if err != nil {
		return err
	}
	defer assets.Close()
	link, err := user.Start(user.Options{Program: assets.Net, Publish: o.publish, ResolvConf: "/etc/resolv.conf"})
	if err != nil {
		return err
	}
	b.onCleanup(func() { link.Close() })
	dev.Link, dev.MTU = link, user.MTU
	return nil
}
