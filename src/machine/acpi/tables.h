// SPDX-License-Identifier: Apache-2.0
// ACPI tables of the PC: RSDP, RSDT, XSDT, FADT, FACS, DSDT, MADT, MCFG. Spec: [ACPI-6.5 5.2]
#pragma once

#include <cstdint>

#include "base/error.h"
#include "machine/acpi/platform_description.h"
#include "machine/byte_image.h"

namespace rhea::machine {

// All tables as one image to be written at `base` (16-byte aligned, below 4 GiB); the RSDP comes first.
ByteImage build_acpi_tables(const PlatformDescription& platform, uint64_t base);

}  // namespace rhea::machine
