// SPDX-License-Identifier: Apache-2.0
// Linux kernels: bzImage, and a bare vmlinux entered by the 64-bit boot protocol.
#pragma once

#include "machine/boot/boot_request.h"
#include "machine/boot/elf.h"

namespace rhea::machine {

bool looks_like_bzimage(std::span<const std::byte> file);

// The setup header of a bzImage, checked against the file.
struct BzImage {
  uint16_t protocol = 0;               // 0x020c = 2.12
  std::span<const std::byte> header;   // from offset 0x1f1
  std::span<const std::byte> code;     // the protected-mode code
  std::span<const std::byte> payload;  // compressed vmlinux, empty if unknown
  uint64_t preferred_address = 0x100000;
  uint64_t init_size_bytes = 0;
  uint64_t initrd_address_max = 0;
  uint32_t command_line_max = 255;
  bool has_entry64 = false;
  bool relocatable = false;
  uint32_t alignment = 0;
  std::string version;  // "6.1.0-13-amd64", may be empty
};
Result<BzImage> parse_bzimage(std::span<const std::byte> file);

// Unpacks and loads the vmlinux inside where it is a 64-bit ELF, else loads the kernel's own decompressor.
Result<BootResult> load_bzimage(const BootRequest& request);

// A 64-bit vmlinux without a PVH note, entered at its ELF entry point with a zero page in RSI.
Result<BootResult> load_vmlinux(const BootRequest& request, const ElfImage& image);

}  // namespace rhea::machine
