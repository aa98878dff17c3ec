// SPDX-License-Identifier: Apache-2.0
// Asks CPUID leaf 0DH. [SDM-2A CPUID]
#include "cpu/xsave_layout.h"

#include <cpuid.h>

#include "cpu/cpu_state.h"

namespace rhea::cpu {

namespace {

Avx512Layout ask_host() {
  constexpr uint32_t kAvx512f = 1u << 16;
  uint32_t eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx & kAvx512f)) return {};
  const auto place = [&](uint32_t component, size_t wanted_bytes) -> size_t {
    if (!__get_cpuid_count(0xd, component, &eax, &ebx, &ecx, &edx)) return 0;
    return eax == wanted_bytes && ebx + eax <= kXsaveAreaBytes ? ebx : 0;
  };
  const Avx512Layout layout{place(5, 64), place(6, 512), place(7, 1024)};
  return layout.masks && layout.upper_zmm && layout.high_zmm ? layout : Avx512Layout{};
}

}  // namespace

const Avx512Layout& host_avx512_layout() {
  static const Avx512Layout layout = ask_host();
  return layout;
}

}  // namespace rhea::cpu
