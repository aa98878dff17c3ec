// SPDX-License-Identifier: Apache-2.0
// KVM's structures that end in an array, as C lays them out. In C++ the kernel's headers give them another size and
// the array another place (an empty structure has a byte there), and so other numbers to the calls that take them.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>

namespace rhea::engine_kvm {

// Before the entries of kvm_msrs and kvm_cpuid2.
struct ListHeader {
  uint32_t count = 0, padding = 0;
};
struct XsaveArea {
  std::byte bytes[4096];
};

inline constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, ListHeader);
inline constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, ListHeader);
inline constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, ListHeader);
inline constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, ListHeader);
inline constexpr unsigned long kSetXsave = _IOW(KVMIO, 0xa5, XsaveArea);
inline constexpr unsigned long kGetXsave2 = _IOR(KVMIO, 0xcf, XsaveArea);

static_assert(kGetMsrs == 0xc008ae88 && kSetCpuid2 == 0x4008ae90 && kGetXsave2 == 0x9000aecf);

}  // namespace rhea::engine_kvm
