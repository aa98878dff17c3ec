// SPDX-License-Identifier: Apache-2.0
// Where the host CPU keeps its vector state. [SDM-1 13.5.5]
#include "tests/isa/machine_state.h"

#include <cpuid.h>

#include <algorithm>

namespace rhea::tests::isa {
namespace {

VectorLayout find_layout() {
  constexpr uint32_t kOsxsave = 1u << 27, kAvx512f = 1u << 16;
  constexpr uint64_t kAvx512Components = 0xe0, kNeeded = 0xe7;
  VectorLayout layout;
  uint32_t eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & kOsxsave)) return layout;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx & kAvx512f)) return layout;
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & kNeeded) != kNeeded) return layout;
  const auto place = [&](uint32_t component, size_t wanted_bytes) -> size_t {
    __cpuid_count(0xd, component, eax, ebx, ecx, edx);
    if (eax != wanted_bytes || ebx + eax > kXsaveBytes) return 0;
    layout.bytes = std::max<size_t>(layout.bytes, ebx + eax);
    return ebx;
  };
  layout.masks = place(5, kMaskBytes);
  layout.zmm_upper = place(6, kZmmUpperBytes);
  layout.high_zmm = place(7, kHighZmmBytes);
  if (!layout.masks || !layout.zmm_upper || !layout.high_zmm) return {};
  layout.avx512 = true;
  layout.components |= kAvx512Components;
  return layout;
}

}  // namespace

const VectorLayout& vector_layout() {
  static const VectorLayout layout = find_layout();
  return layout;
}

}  // namespace rhea::tests::isa
