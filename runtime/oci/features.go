package oci

import (
	"sort"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Annotations of our own, for what the runtime-spec has no field for.
const (
	annotationPrefix = "io.govmm."

	AnnotationMemory    = "io.govmm.memory"    // guest RAM in bytes, or with a suffix K, M or G
	AnnotationMaxMemory = "io.govmm.maxMemory" // up to how much RAM the guest gets when it needs it, likewise
	AnnotationCPUs      = "io.govmm.cpus"      // number of virtual CPUs
	AnnotationNetwork   = "io.govmm.network"   // user[,publish=HOSTPORT:GUESTPORT]...: a network without an engine

	AnnotationNetworkLimit = "io.govmm.networkLimit" // of each interface, in each direction: rate=N[:BURST],ops=N[:BURST]
	AnnotationDiskLimit    = "io.govmm.diskLimit"    // of each of linux.devices that is a disk, likewise
)

var annotations = []string{AnnotationMemory, AnnotationMaxMemory, AnnotationCPUs, AnnotationNetwork, AnnotationNetworkLimit, AnnotationDiskLimit}

// Features describes this runtime (runtime-spec, features.md).
func Features() *features.Features {
	no, yes := false, true
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         hookKinds,
		MountOptions:  mountOptions(),
		Linux: &features.Linux{
			Namespaces:      []string{"cgroup", "ipc", "mount", "network", "pid", "time", "uts"},
			Cgroup:          &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &no},
			Seccomp:         seccompFeatures(),
			Apparmor:        &features.Apparmor{Enabled: &no},
			Selinux:         &features.Selinux{Enabled: &no},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &no}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
		PotentiallyUnsafeConfigAnnotations: []string{annotationPrefix},
	}
}

func mountOptions() []string {
	out := []string{"bind", "rbind", "tmpcopyup"}
	for o := range mountFlags {
		out = append(out, o)
	}
	for o := range recursiveFlags {
		out = append(out, o)
	}
	for o := range propagations {
		out = append(out, o)
	}
	sort.Strings(out)
	return out
}
