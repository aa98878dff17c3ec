// SPDX-License-Identifier: Apache-2.0
// SMBIOS tables: what dmidecode shows. Spec: [SMBIOS-3.6]
#pragma once

#include <cstdint>

#include "machine/acpi/platform_description.h"
#include "machine/byte_image.h"

namespace rhea::machine {

// Both entry points (64-bit "_SM3_", 32-bit "_SM_") and the structures, to be written at `base`, which is
// 16-byte aligned within 0xf0000-0xfffff so that a guest's scan finds it.
ByteImage build_smbios(const PlatformDescription& platform, uint32_t base);

}  // namespace rhea::machine
