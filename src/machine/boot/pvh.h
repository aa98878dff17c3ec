// SPDX-License-Identifier: Apache-2.0
// PVH: ELF kernels that name a 32-bit physical entry point in a Xen note. [Xen docs/misc/pvh.pandoc]
#pragma once

#include "machine/boot/boot_request.h"
#include "machine/boot/elf.h"

namespace rhea::machine {

// `image` must have a PVH entry.
Result<BootResult> load_pvh(const BootRequest& request, const ElfImage& image);

}  // namespace rhea::machine
