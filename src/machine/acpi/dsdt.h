// SPDX-License-Identifier: Apache-2.0
// The differentiated system description: devices, PCI windows and interrupt routing as AML.
#pragma once

#include "machine/acpi/platform_description.h"
#include "machine/byte_image.h"

namespace rhea::machine {

// The AML of the DSDT, without its table header.
ByteImage build_dsdt_aml(const PlatformDescription& platform);

}  // namespace rhea::machine
