// SPDX-License-Identifier: Apache-2.0
// Multiboot version 1 kernels, as ELF files or by the address fields of the header. [Multiboot-0.6.96]
#pragma once

#include <optional>

#include "machine/boot/boot_request.h"

namespace rhea::machine {

struct MultibootHeader {
  uint64_t file_offset = 0;
  uint32_t flags = 0;
  uint32_t header_address = 0, load_address = 0, load_end = 0, bss_end = 0, entry = 0;  // with the address-field flag

  bool has_addresses() const { return (flags & (1u << 16)) != 0; }
};

// The header, if the first 8 KiB hold one with a right checksum.
std::optional<MultibootHeader> find_multiboot_header(std::span<const std::byte> file);

Result<BootResult> load_multiboot(const BootRequest& request);

}  // namespace rhea::machine
