// SPDX-License-Identifier: Apache-2.0
// Power-on and INIT values of the architectural state. [SDM-3A 10.1.1, table 10-1]
#include "cpu/cpu_state.h"

#include <cstring>

namespace rhea::cpu {

namespace {

constexpr size_t kFcwOffset = 0, kFtwOffset = 4, kMxcsrOffset = 24, kXstateBvOffset = 512;  // [SDM-1 13.4.1, 13.4.2]

template <class T>
void put(CpuState& state, size_t offset, T value) {
  std::memcpy(&state.xsave[offset], &value, sizeof value);
}

// What RESET and INIT set alike, all of which is zero before.
void reset_registers(CpuState& state, uint32_t signature) {
  state.rip = 0xfff0;
  state.gpr[kRdx] = signature;

  constexpr uint16_t kData = 0x93, kCode = 0x9b, kLdt = 0x82, kBusyTss = 0x8b;
  for (SegmentIndex index : {kEs, kSs, kDs, kFs, kGs}) state.segment[index] = {.attributes = kData};
  state.segment[kCs] = {.base = 0xffff0000, .selector = 0xf000, .attributes = kCode};
  state.segment[kLdtr] = {.attributes = kLdt};
  state.segment[kTr] = {.attributes = kBusyTss};

  state.dr[6] = 0xffff0ff0;
  state.dr[7] = 0x400;
}

}  // namespace

void reset_to_power_on(CpuState& state, uint32_t signature) {
  state = CpuState{};
  reset_registers(state, signature);
  state.cr0 = cr0::kCd | cr0::kNw | cr0::kEt;
  // Fast strings on; no branch trace store, no PEBS. [SDM-4 2.1, MSR 1A0H]
  state.misc_enable = 0x1801;

  put<uint16_t>(state, kFcwOffset, 0x0040);
  put<uint8_t>(state, kFtwOffset, 0xff);  // tag word 5555H: every register valid, holding +0.0
  put<uint32_t>(state, kMxcsrOffset, 0x1f80);
  put<uint64_t>(state, kXstateBvOffset, 0b11);  // x87 and SSE are in the area; AVX in its initial state
}

void reset_by_init(CpuState& state, uint32_t signature) {
  state.gpr = {};
  state.rflags = rflags::kFixed1;
  state.segment = {};
  state.gdtr = state.idtr = {};
  state.cr0 = (state.cr0 & (cr0::kCd | cr0::kNw)) | cr0::kEt;
  state.cr2 = state.cr3 = state.cr4 = state.efer = 0;
  state.dr = {};
  state.pdpte = {};
  state.kvm_system_time = state.kvm_async_pf = state.kvm_steal_time = state.kvm_pv_eoi = 0;
  state.sti_shadow = state.mov_ss_shadow = state.nmi_blocked = state.nmi_pending = false;
  state.halted = state.wait_for_sipi = false;
  state.in_smm = state.smm_nmi_blocked = false;
  state.interrupt_taken = 0;
  state.debug_pending = 0;
  reset_registers(state, signature);
}

}  // namespace rhea::cpu
