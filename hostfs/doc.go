// Package hostfs serves directory trees of this host to a guest, as a FUSE file system.
//
// It implements [fuse.RawFileSystem]; who carries the requests (virtio-fs, or /dev/fuse in tests) is not its business. What
// programs in the guest may rely on is written in docs/filesystem.md, sentence by sentence, each with its test.
//
// The guest is hostile. Three rules keep it inside its exports:
//
//   - A node id stands for an O_PATH descriptor, never for a path. The only thing ever resolved is one single component
//     below such a descriptor, by openat2 with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS.
//   - Only regular files and directories are opened. FIFOs, sockets and device nodes are looked up, made and described; they
//     come to life in the guest's kernel alone.
//   - procfs, sysfs and their like are refused wherever a mount crossing meets them, so that no export leads to /proc/1/mem.
//
// The guest's kernel checks permissions (virtio-fs always has default_permissions); this side creates with the right owner. See
// actor.go for how.
package hostfs
