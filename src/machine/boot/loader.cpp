// SPDX-License-Identifier: Apache-2.0
// Chooses the boot protocol for a kernel file.
#include "machine/boot/loader.h"

#include <fmt/format.h>

#include <algorithm>

#include "machine/boot/byte_view.h"
#include "machine/boot/bzimage.h"
#include "machine/boot/decompress.h"
#include "machine/boot/elf.h"
#include "machine/boot/multiboot.h"
#include "machine/boot/pvh.h"

namespace rhea::machine {
namespace {

// Says what a file is that is no kernel, where a few bytes tell.
std::string describe_stranger(std::span<const std::byte> file) {
  ByteView view(file);
  if (file.empty()) return "the file is empty";
  if (Compression packed = detect_compression(file); packed != Compression::kNone)
    return fmt::format("{}-compressed data; unpack it first", compression_name(packed));
  if (view.u16(0) == 0x5a4d) return "a PE/EFI program without a Linux setup header";
  if (view.u32(0) == 0x3730'3730 || view.u16(0) == 0x71c7) return "a cpio archive (an initial RAM disk?)";
  if (view.u16(0) == 0x2123) return "a script";
  if (view.u16(510) == 0xaa55) return "a boot sector or disk image";
  return "no bzImage, ELF or Multiboot header in it";
}

// Linux runs in the upper half of the address space and gives a physical entry point. Programs do neither.
bool linked_like_linux(const ElfImage& image) {
  return std::ranges::any_of(image.segments, [&](const ElfSegment& segment) {
    return segment.virtual_address >> 63 != 0 && image.entry >= segment.physical_address &&
           image.entry - segment.physical_address < segment.memory_bytes;
  });
}

Result<BootResult> load_elf(const BootRequest& request) {
  ElfImage image = RHEA_TRY(parse_elf(request.kernel));
  if (image.pvh_entry) return load_pvh(request, image);
  if (!image.is_64bit)
    return fail(ErrorCode::kUnsupported,
                "not a kernel: a 32-bit ELF file with neither a Multiboot header nor a PVH note");
  if (!linked_like_linux(image))
    return fail(ErrorCode::kUnsupported,
                "not a kernel: an ELF program with neither a Multiboot header nor a PVH note, not linked like Linux");
  return load_vmlinux(request, image);
}

}  // namespace

KernelKind detect_kernel(std::span<const std::byte> file) {
  if (looks_like_bzimage(file)) return KernelKind::kBzImage;
  if (find_multiboot_header(file)) return KernelKind::kMultiboot;
  if (looks_like_elf(file)) return KernelKind::kElf;
  return KernelKind::kUnknown;
}

Result<BootResult> load_kernel(const BootRequest& request) {
  switch (detect_kernel(request.kernel)) {
    case KernelKind::kBzImage: return load_bzimage(request);
    case KernelKind::kMultiboot: return load_multiboot(request);
    case KernelKind::kElf: return load_elf(request);
    case KernelKind::kUnknown: break;
  }
  return fail(ErrorCode::kCorrupt, fmt::format("not a kernel: {}", describe_stranger(request.kernel)));
}

}  // namespace rhea::machine
