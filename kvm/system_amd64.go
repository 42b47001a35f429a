package kvm

import (
	"errors"

	"golang.org/x/sys/unix"
)

// SupportedCPUID is KVM_GET_SUPPORTED_CPUID, KVM API 4.46: every leaf that the host's processor and KVM can give a guest.
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	return cpuidTable(s.fd, "KVM_GET_SUPPORTED_CPUID", kvmGetSupportedCPUID)
}

// EmulatedCPUID is KVM_GET_EMULATED_CPUID, KVM API 4.88: the features that KVM emulates though the processor lacks them.
func (s *System) EmulatedCPUID() ([]CPUIDEntry, error) {
	return cpuidTable(s.fd, "KVM_GET_EMULATED_CPUID", kvmGetEmulatedCPUID)
}

// cpuidTable asks with a growing table: the kernel says E2BIG while it is too small.
func cpuidTable(f *fd, name string, request uintptr) ([]CPUIDEntry, error) {
	for n := 64; ; n *= 2 {
		buf, entries := table[CPUIDEntry](n)
		_, err := ioctlPtr(f, name, request, &buf[0])
		if errors.Is(err, unix.E2BIG) && n < 4096 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return entries[:min(int(uint32(buf[0])), n)], nil
	}
}

// MSRIndexList is KVM_GET_MSR_INDEX_LIST, KVM API 4.3: the MSRs that a guest has and a snapshot must keep.
func (s *System) MSRIndexList() ([]uint32, error) {
	return s.msrList("KVM_GET_MSR_INDEX_LIST", kvmGetMSRIndexList)
}

// MSRFeatureIndexList is KVM_GET_MSR_FEATURE_INDEX_LIST, KVM API 4.3: the MSRs that System.MSRs can read.
func (s *System) MSRFeatureIndexList() ([]uint32, error) {
	return s.msrList("KVM_GET_MSR_FEATURE_INDEX_LIST", kvmGetMSRFeatureIndexList)
}

func (s *System) msrList(name string, request uintptr) ([]uint32, error) {
	for n := uint32(256); ; {
		buf := make([]uint32, 1+n)
		buf[0] = n
		_, err := ioctlPtr(s.fd, name, request, &buf[0])
		// With E2BIG the kernel writes the count that it needs.
		if errors.Is(err, unix.E2BIG) && buf[0] > n && buf[0] < 1<<16 {
			n = buf[0]
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[1:][:min(buf[0], n)], nil
	}
}

// MSRs is KVM_GET_MSRS on the system, KVM API 4.18: the values of feature MSRs as KVM can offer them. It returns as many
// entries as the kernel could read before the first that it could not.
func (s *System) MSRs(indices []uint32) ([]MSREntry, error) {
	return getMSRs(s.fd, indices)
}

func getMSRs(f *fd, indices []uint32) ([]MSREntry, error) {
	buf, entries := table[MSREntry](len(indices))
	for i, index := range indices {
		entries[i].Index = index
	}
	n, err := ioctlPtr(f, "KVM_GET_MSRS", kvmGetMSRs, &buf[0])
	if err != nil {
		return nil, err
	}
	return entries[:min(n, len(entries))], nil
}
