package seccomp

import (
	"slices"
	"strings"
)

//go:generate go run mktables.go

// x32Bit marks the system calls of the x32 ABI (__X32_SYSCALL_BIT, arch/x86/include/uapi/asm/unistd.h).
const x32Bit = 0x40000000

// numbers are those of a system call on the architectures that an x86-64 kernel runs, absent where it has none.
type numbers struct {
	name             string
	amd64, x32, i386 int32
}

const absent = -1

// lookup finds a system call by its name.
func lookup(name string) (numbers, bool) {
	i, ok := slices.BinarySearchFunc(syscalls[:], name, func(s numbers, name string) int { return strings.Compare(s.name, name) })
	if !ok {
		return numbers{}, false
	}
	return syscalls[i], true
}

// i386 has had its socket and System V IPC calls behind two doors: socketcall(2) and ipc(2) take the number of the call
// as their first argument.
const (
	i386Socketcall = 102
	i386IPC        = 117
)

// door is how i386 reaches a call through socketcall or ipc.
type door struct {
	name string
	call uint64 // SYS_* of linux/net.h or the call number of linux/ipc.h
	nr   uint32
}

var doors = [...]door{
	{"socket", 1, i386Socketcall}, {"bind", 2, i386Socketcall}, {"connect", 3, i386Socketcall},
	{"listen", 4, i386Socketcall}, {"accept", 5, i386Socketcall}, {"getsockname", 6, i386Socketcall},
	{"getpeername", 7, i386Socketcall}, {"socketpair", 8, i386Socketcall}, {"send", 9, i386Socketcall},
	{"recv", 10, i386Socketcall}, {"sendto", 11, i386Socketcall}, {"recvfrom", 12, i386Socketcall},
	{"shutdown", 13, i386Socketcall}, {"setsockopt", 14, i386Socketcall}, {"getsockopt", 15, i386Socketcall},
	{"sendmsg", 16, i386Socketcall}, {"recvmsg", 17, i386Socketcall}, {"accept4", 18, i386Socketcall},
	{"recvmmsg", 19, i386Socketcall}, {"sendmmsg", 20, i386Socketcall},
	{"semop", 1, i386IPC}, {"semget", 2, i386IPC}, {"semctl", 3, i386IPC}, {"semtimedop", 4, i386IPC},
	{"msgsnd", 11, i386IPC}, {"msgrcv", 12, i386IPC}, {"msgget", 13, i386IPC}, {"msgctl", 14, i386IPC},
	{"shmat", 21, i386IPC}, {"shmdt", 22, i386IPC}, {"shmget", 23, i386IPC}, {"shmctl", 24, i386IPC},
}

func doorOf(name string) (door, bool) {
	i := slices.IndexFunc(doors[:], func(d door) bool { return d.name == name })
	if i < 0 {
		return door{}, false
	}
	return doors[i], true
}
