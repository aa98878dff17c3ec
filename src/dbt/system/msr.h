// SPDX-License-Identifier: Apache-2.0
// The paravirtual registers (kvmclock and its kin), for RDMSR and WRMSR.
#pragma once

#include <cstdint>
#include <optional>

#include "dbt/system/internal.h"

namespace rhea::dbt {

bool is_paravirtual_msr(uint32_t index);
// Nothing / false: the access must raise #GP(0).
std::optional<uint64_t> read_paravirtual_msr(Context& context, uint32_t index);
bool write_paravirtual_msr(Context& context, uint32_t index, uint64_t value);
// Writes the guest's time structure again, if it has one; needed whenever IA32_TSC_ADJUST changes.
void update_system_time(Context& context);

}  // namespace rhea::dbt
