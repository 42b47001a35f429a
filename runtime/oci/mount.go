package oci

import (
	"errors"
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Mount is a config mount with its options understood.
type Mount struct {
	Source, Target, Type string
	Bind                 bool
	Recursive            bool    // rbind
	Flags                uintptr // MS_* for mount(2), without MS_BIND and MS_REC
	Clear                uintptr // MS_* that an option takes away
	RecursiveAttr        uint64  // MOUNT_ATTR_* to set on the whole tree (rro, rnosuid, ...)
	RecursiveClear       uint64
	Propagation          uintptr // MS_PRIVATE, MS_SLAVE ..., with MS_REC; 0 where none is asked for
	CopyUp               bool    // tmpcopyup
	Data                 string
}

type mountFlag struct {
	clear bool
	flag  uintptr
}

// mountFlags are the options of mount(8) that are flags of mount(2) (runtime-spec, config.md: Linux mount options).
var mountFlags = map[string]mountFlag{
	"acl":           {false, unix.MS_POSIXACL},
	"async":         {true, unix.MS_SYNCHRONOUS},
	"atime":         {true, unix.MS_NOATIME},
	"defaults":      {},
	"dev":           {true, unix.MS_NODEV},
	"diratime":      {true, unix.MS_NODIRATIME},
	"dirsync":       {false, unix.MS_DIRSYNC},
	"exec":          {true, unix.MS_NOEXEC},
	"iversion":      {false, unix.MS_I_VERSION},
	"lazytime":      {false, unix.MS_LAZYTIME},
	"loud":          {true, unix.MS_SILENT},
	"mand":          {false, unix.MS_MANDLOCK},
	"noacl":         {true, unix.MS_POSIXACL},
	"noatime":       {false, unix.MS_NOATIME},
	"nodev":         {false, unix.MS_NODEV},
	"nodiratime":    {false, unix.MS_NODIRATIME},
	"noexec":        {false, unix.MS_NOEXEC},
	"noiversion":    {true, unix.MS_I_VERSION},
	"nolazytime":    {true, unix.MS_LAZYTIME},
	"nomand":        {true, unix.MS_MANDLOCK},
	"norelatime":    {true, unix.MS_RELATIME},
	"nostrictatime": {true, unix.MS_STRICTATIME},
	"nosuid":        {false, unix.MS_NOSUID},
	"nosymfollow":   {false, unix.MS_NOSYMFOLLOW},
	"relatime":      {false, unix.MS_RELATIME},
	"ro":            {false, unix.MS_RDONLY},
	"rw":            {true, unix.MS_RDONLY},
	"silent":        {false, unix.MS_SILENT},
	"strictatime":   {false, unix.MS_STRICTATIME},
	"suid":          {true, unix.MS_NOSUID},
	"symfollow":     {true, unix.MS_NOSYMFOLLOW},
	"sync":          {false, unix.MS_SYNCHRONOUS},
}

type recursiveFlag struct {
	clear bool
	attr  uint64
}

// recursiveFlags are the options that mount_setattr(2) sets on a whole tree.
var recursiveFlags = map[string]recursiveFlag{
	"rro":         {false, unix.MOUNT_ATTR_RDONLY},
	"rrw":         {true, unix.MOUNT_ATTR_RDONLY},
	"rnosuid":     {false, unix.MOUNT_ATTR_NOSUID},
	"rsuid":       {true, unix.MOUNT_ATTR_NOSUID},
	"rnodev":      {false, unix.MOUNT_ATTR_NODEV},
	"rdev":        {true, unix.MOUNT_ATTR_NODEV},
	"rnoexec":     {false, unix.MOUNT_ATTR_NOEXEC},
	"rexec":       {true, unix.MOUNT_ATTR_NOEXEC},
	"rnodiratime": {false, unix.MOUNT_ATTR_NODIRATIME},
	"rdiratime":   {true, unix.MOUNT_ATTR_NODIRATIME},

	"rnosymfollow": {false, unix.MOUNT_ATTR_NOSYMFOLLOW},
	"rsymfollow":   {true, unix.MOUNT_ATTR_NOSYMFOLLOW},

	"rrelatime":      {false, unix.MOUNT_ATTR_RELATIME},
	"rnorelatime":    {true, unix.MOUNT_ATTR_RELATIME},
	"rnoatime":       {false, unix.MOUNT_ATTR_NOATIME},
	"ratime":         {true, unix.MOUNT_ATTR_NOATIME},
	"rstrictatime":   {false, unix.MOUNT_ATTR_STRICTATIME},
	"rnostrictatime": {true, unix.MOUNT_ATTR_STRICTATIME},
}

var propagations = map[string]uintptr{
	"private":     unix.MS_PRIVATE,
	"rprivate":    unix.MS_PRIVATE | unix.MS_REC,
	"slave":       unix.MS_SLAVE,
	"rslave":      unix.MS_SLAVE | unix.MS_REC,
	"shared":      unix.MS_SHARED,
	"rshared":     unix.MS_SHARED | unix.MS_REC,
	"unbindable":  unix.MS_UNBINDABLE,
	"runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// guestTypes are the file systems that the guest mounts by itself.
var guestTypes = map[string]bool{
	"proc": true, "sysfs": true, "tmpfs": true, "devpts": true, "mqueue": true, "cgroup": true, "cgroup2": true, "ramfs": true,
}

func isBind(m specs.Mount) bool {
	if m.Type == "bind" {
		return true
	}
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

// ParseMount understands m's options, or says which one it cannot carry out.
func ParseMount(m specs.Mount) (Mount, error) {
	out := Mount{Source: m.Source, Target: m.Destination, Type: m.Type, Bind: isBind(m)}
	if !out.Bind && !guestTypes[m.Type] {
		return Mount{}, fmt.Errorf("file system type %q is not supported: use bind, proc, sysfs, tmpfs, devpts, mqueue or cgroup", m.Type)
	}
	var data []string
	for _, o := range m.Options {
		switch {
		case o == "bind":
		case o == "rbind":
			out.Recursive = true
		case o == "tmpcopyup":
			out.CopyUp = true
		case o == "idmap" || o == "ridmap":
			return Mount{}, fmt.Errorf("option %q is not supported yet", o)
		case o == "remount":
			return Mount{}, errors.New("option remount is not supported: a guest's mounts are all new")
		case propagations[o] != 0:
			out.Propagation = propagations[o]
		default:
			if !out.setFlag(o) {
				data = append(data, o)
			}
		}
	}
	out.Data = strings.Join(data, ",")
	if out.Bind && out.Data != "" {
		return Mount{}, fmt.Errorf("bind mounts cannot have filesystem-specific options: %s", out.Data)
	}
	if out.CopyUp && m.Type != "tmpfs" {
		return Mount{}, fmt.Errorf("option tmpcopyup is for tmpfs only")
	}
	return out, nil
}

// checkPropagation refuses a bind mount that is to pass the container's mounts on to the host. Where the root does not propagate to the
// host either, which is how engines ask for it, a shared mount is one in the container alone, with runc too.
func checkPropagation(mounts []specs.Mount, root string) error {
	if propagations[root]&unix.MS_SHARED == 0 {
		return nil
	}
	for _, m := range mounts {
		p, err := ParseMount(m)
		if err == nil && p.Bind && p.Propagation&unix.MS_SHARED != 0 {
			return fmt.Errorf("mount %s: shared propagation under a shared root cannot cross the boundary of a VM: use rprivate or rslave", m.Destination)
		}
	}
	return nil
}

// setFlag applies one flag option; it reports false for what is not a flag.
func (m *Mount) setFlag(option string) bool {
	if f, ok := mountFlags[option]; ok {
		if f.clear {
			m.Flags &^= f.flag
			m.Clear |= f.flag
		} else {
			m.Flags |= f.flag
			m.Clear &^= f.flag
		}
		return true
	}
	f, ok := recursiveFlags[option]
	if !ok {
		return false
	}
	m.setRecursive(f)
	return true
}

// setRecursive notes one option for a whole tree. How access times are kept is one field of the attributes, which
// mount_setattr(2) wants to be cleared whenever a value is put into it.
func (m *Mount) setRecursive(f recursiveFlag) {
	const atime = unix.MOUNT_ATTR__ATIME
	switch {
	case f.attr&^atime == 0:
		m.RecursiveAttr &^= atime
		m.RecursiveClear |= atime
		if !f.clear {
			m.RecursiveAttr |= f.attr
		}
	case f.clear:
		m.RecursiveAttr &^= f.attr
		m.RecursiveClear |= f.attr
	default:
		m.RecursiveAttr |= f.attr
		m.RecursiveClear &^= f.attr
	}
}
