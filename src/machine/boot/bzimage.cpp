// SPDX-License-Identifier: Apache-2.0
// The Linux/x86 boot protocol. [Linux Documentation/arch/x86/boot.rst]
//
// The usual way in skips the kernel's real-mode setup and its decompressor: the payload is unpacked here, its
// segments go to the physical addresses they are linked for, and startup_64 is entered with a zero page. A
// relocatable kernel runs as well unmoved. Whatever cannot be unpacked here falls back to the decompressor that
// the bzImage carries, by its 64-bit or (old and 32-bit kernels) 32-bit entry.
#include "machine/boot/bzimage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "machine/boot/boot_cpu.h"
#include "machine/boot/byte_view.h"
#include "machine/boot/decompress.h"
#include "machine/boot/linux_wire.h"
#include "machine/byte_image.h"

namespace rhea::machine {
namespace {

using namespace linux_boot;

constexpr uint64_t kMaxUnpackedKernelBytes = 512u << 20;
constexpr uint64_t kLowMemoryStart = 0x1000, kLowMemoryEnd = 0x9fc00;
constexpr uint64_t kHighMemoryStart = 0x100000;
constexpr uint64_t kFourGiB = uint64_t{1} << 32;
constexpr uint32_t kVmlinuxCommandLineMax = 2047;  // COMMAND_LINE_SIZE - 1 on x86

// What the zero page says beside the header itself.
struct ZeroPage {
  std::span<const std::byte> header;
  uint64_t initrd_address = 0;
  uint64_t initrd_bytes = 0;
  uint64_t command_line_address = 0;
  uint32_t code32_start = 0;
};

std::string printable_version(const ByteView& view, uint64_t offset) {
  std::string text;
  for (uint64_t i = offset; text.size() < 64; ++i) {
    uint8_t c = view.u8(i);
    if (c <= ' ' || c >= 0x7f) break;
    text.push_back(static_cast<char>(c));
  }
  return text;
}

Result<uint64_t> write_command_line(const BootRequest& request, Placement& placement, uint64_t max_length) {
  if (request.command_line.size() > max_length) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the kernel command line has {} characters; this kernel takes at most {}",
                            request.command_line.size(), max_length));
  }
  ByteImage text;
  text.text(request.command_line).u8(0);
  uint64_t address =
      RHEA_TRY(placement.claim_low(text.size(), 16, kLowMemoryStart, kLowMemoryEnd, "the kernel command line"));
  if (!request.memory.write({address}, text.span()))
    return fail(ErrorCode::kInternal, "cannot write the kernel command line");
  return address;
}

// Several initial RAM disks become one: Linux unpacks concatenated cpio archives, aligned to four bytes.
Result<uint64_t> write_initrd(const BootRequest& request, Placement& placement, uint64_t address_max,
                              uint64_t& total_bytes) {
  total_bytes = 0;
  for (const BootModule& module : request.modules)
    total_bytes = ((total_bytes + 3) & ~uint64_t{3}) + module.data.size();
  if (total_bytes == 0) return 0;
  uint64_t limit = std::min(address_max, kFourGiB - 1) + 1;
  uint64_t address =
      RHEA_TRY(placement.claim_high(total_bytes, memory::kPageSize, kHighMemoryStart, limit, "the initial RAM disk"));
  uint64_t offset = 0;
  for (const BootModule& module : request.modules) {
    offset = (offset + 3) & ~uint64_t{3};
    if (!module.data.empty() && !request.memory.write({address + offset}, module.data))
      return fail(ErrorCode::kInternal, "cannot write the initial RAM disk");
    offset += module.data.size();
  }
  return address;
}

Result<uint64_t> write_zero_page(const BootRequest& request, Placement& placement, const ZeroPage& content) {
  ByteImage page(kZeroPageBytes);
  page.put_bytes(kHeaderStart, content.header.first(std::min(content.header.size(), kHeaderEndMax - kHeaderStart)));
  page.put8(kTypeOfLoader, kUndefinedLoader);
  uint8_t flags = static_cast<uint8_t>(page.span()[kLoadFlags]);
  page.put8(kLoadFlags, static_cast<uint8_t>((flags | kLoadedHigh) & ~(kKaslrFlag | kCanUseHeap)));
  page.put32(kCode32Start, content.code32_start);
  page.put32(kRamdiskImage, static_cast<uint32_t>(content.initrd_address));
  page.put32(kRamdiskSize, static_cast<uint32_t>(content.initrd_bytes));
  page.put32(kExtRamdiskImage, static_cast<uint32_t>(content.initrd_address >> 32));
  page.put32(kExtRamdiskSize, static_cast<uint32_t>(content.initrd_bytes >> 32));
  page.put32(kCommandLinePointer, static_cast<uint32_t>(content.command_line_address));
  page.put64(kAcpiRsdpAddress, request.rsdp_address);
  size_t count = std::min(request.map.size(), kE820Max);
  page.put8(kE820Count, static_cast<uint8_t>(count));
  for (size_t i = 0; i < count; ++i) {
    page.put64(kE820Table + 20 * i, request.map[i].start);
    page.put64(kE820Table + 20 * i + 8, request.map[i].size_bytes);
    page.put32(kE820Table + 20 * i + 16, static_cast<uint32_t>(request.map[i].type));
  }
  uint64_t address =
      RHEA_TRY(placement.claim_low(page.size(), memory::kPageSize, kLowMemoryStart, kLowMemoryEnd, "the zero page"));
  if (!request.memory.write({address}, page.span())) return fail(ErrorCode::kInternal, "cannot write the zero page");
  return address;
}

// Command line, RAM disk and zero page, then 64-bit mode at `entry` with the zero page in RSI.
struct Entry {
  uint64_t address = 0;
  BootMode mode = BootMode::kLong64;
  uint64_t initrd_address_max = 0x7fffffff;
  uint64_t command_line_max = kVmlinuxCommandLineMax;
  std::span<const std::byte> header;
  uint32_t code32_start = 0;
};
Result<cpu::CpuState> finish(const BootRequest& request, Placement& placement, const Entry& entry) {
  ZeroPage page{.header = entry.header, .code32_start = entry.code32_start};
  page.command_line_address = RHEA_TRY(write_command_line(request, placement, entry.command_line_max));
  page.initrd_address = RHEA_TRY(write_initrd(request, placement, entry.initrd_address_max, page.initrd_bytes));
  uint64_t zero_page = RHEA_TRY(write_zero_page(request, placement, page));
  uint64_t gdt = RHEA_TRY(write_boot_gdt(request.memory, placement, entry.mode));
  cpu::CpuState state;
  if (entry.mode == BootMode::kLong64) {
    RHEA_TRY(enter_long64(state, request.memory, placement, gdt, entry.address));
  } else {
    enter_protected32(state, gdt, static_cast<uint32_t>(entry.address));
  }
  state.gpr[cpu::kRsi] = zero_page;
  return state;
}

// The vmlinux inside, or nothing where it must be left to the kernel's own decompressor.
Result<std::vector<std::byte>> unpack_payload(const BzImage& image) {
  if (image.payload.empty()) return fail(ErrorCode::kUnsupported, "no payload");
  std::vector<std::byte> vmlinux = RHEA_TRY(decompress(image.payload, kMaxUnpackedKernelBytes));
  return vmlinux;
}

Result<BootResult> enter_unpacked(const BootRequest& request, const BzImage& image, const ElfImage& vmlinux) {
  Placement placement(request.map);
  RHEA_TRY(load_elf_segments(vmlinux, request.memory, placement));
  // Beyond its segments a booting kernel may use init_size bytes before it has read the memory map.
  uint64_t end = 0;
  for (const ElfSegment& segment : vmlinux.segments)
    end = std::max(end, segment.physical_address + segment.memory_bytes);
  uint64_t needed_end = image.preferred_address + image.init_size_bytes;
  if (needed_end > end) RHEA_TRY(placement.claim(end, needed_end - end, "the kernel's working memory"));

  Entry entry{.address = vmlinux.entry,
              .initrd_address_max = image.initrd_address_max,
              .command_line_max = image.command_line_max,
              .header = image.header,
              .code32_start = static_cast<uint32_t>(image.preferred_address)};
  BootResult result;
  result.state = RHEA_TRY(finish(request, placement, entry));
  result.description = fmt::format("Linux {} ({} bzImage, unpacked by the loader), 64-bit entry {:#x}", image.version,
                                   compression_name(detect_compression(image.payload)), vmlinux.entry);
  return result;
}

Result<BootResult> enter_own_decompressor(const BootRequest& request, const BzImage& image) {
  Placement placement(request.map);
  uint64_t footprint = std::max<uint64_t>(image.init_size_bytes, image.code.size());
  uint64_t address = image.preferred_address;
  if (!placement.claim(address, footprint, "the kernel")) {
    if (!image.relocatable) return fail(placement.claim(address, footprint, "the kernel").error());
    uint64_t alignment = std::max<uint64_t>(image.alignment, memory::kPageSize);
    address = RHEA_TRY(placement.claim_low(footprint, alignment, kHighMemoryStart, kFourGiB, "the kernel"));
  }
  if (!request.memory.write({address}, image.code))
    return fail(ErrorCode::kExhausted, "the kernel does not fit in the guest's memory");
  Entry entry{.address = image.has_entry64 ? address + kEntry64Offset : address,
              .mode = image.has_entry64 ? BootMode::kLong64 : BootMode::kProtected32,
              .initrd_address_max = image.initrd_address_max,
              .command_line_max = image.command_line_max,
              .header = image.header,
              .code32_start = static_cast<uint32_t>(address)};
  BootResult result;
  result.state = RHEA_TRY(finish(request, placement, entry));
  result.description = fmt::format("Linux {} (bzImage, its own decompressor), {}-bit entry {:#x}", image.version,
                                   image.has_entry64 ? 64 : 32, entry.address);
  return result;
}

}  // namespace

bool looks_like_bzimage(std::span<const std::byte> file) {
  ByteView view(file);
  return view.get<uint16_t>(kBootFlag) == kBootFlagValue && view.get<uint32_t>(kMagic) == kMagicValue;
}

Result<BzImage> parse_bzimage(std::span<const std::byte> file) {
  ByteView view(file);
  if (!looks_like_bzimage(file) || !view.contains(0, 0x264))
    return fail(ErrorCode::kCorrupt, "not a kernel: a truncated bzImage");
  BzImage image;
  image.protocol = view.u16(kVersion);
  if (image.protocol < 0x0204)
    return fail(ErrorCode::kUnsupported,
                fmt::format("a Linux kernel with boot protocol {}.{:02}; 2.04 or later is needed", image.protocol >> 8,
                            image.protocol & 0xff));
  if (!(view.u8(kLoadFlags) & kLoadedHigh))
    return fail(ErrorCode::kUnsupported, "a zImage; only bzImage kernels can be loaded");

  unsigned sectors = view.u8(kSetupSectors) == 0 ? 4 : view.u8(kSetupSectors);
  uint64_t setup_bytes = uint64_t{sectors + 1} * 512;
  if (setup_bytes >= view.size()) return fail(ErrorCode::kCorrupt, "not a kernel: a truncated bzImage");
  image.code = file.subspan(setup_bytes);
  uint64_t header_end = std::min<uint64_t>({kMagic + view.u8(kJump + 1), kHeaderEndMax, view.size()});
  image.header = file.subspan(kHeaderStart, std::max<uint64_t>(header_end, kMagic + 4) - kHeaderStart);

  // Fields that the header is too old or too short for keep their defaults.
  auto has = [&](uint16_t protocol, size_t offset, size_t bytes) {
    return image.protocol >= protocol && offset + bytes <= header_end;
  };
  image.initrd_address_max = view.u32(kInitrdAddressMax) != 0 ? view.u32(kInitrdAddressMax) : 0x37ffffff;
  if (has(0x0205, kRelocatable, 1))
    image.relocatable = view.u8(kRelocatable) != 0, image.alignment = view.u32(kKernelAlignment);
  if ((image.alignment & (image.alignment - 1)) != 0 || image.alignment > (1u << 30)) image.relocatable = false;
  if (has(0x0206, kCommandLineSize, 4)) image.command_line_max = view.u32(kCommandLineSize);
  image.command_line_max = std::min<uint32_t>(image.command_line_max, 65535);
  if (has(0x0208, kPayloadLength, 4)) {
    if (auto payload = ByteView(image.code).slice(view.u32(kPayloadOffset), view.u32(kPayloadLength))) {
      image.payload = *payload;
    } else {
      return fail(ErrorCode::kCorrupt, "not a kernel: a truncated bzImage");
    }
  }
  if (has(0x020a, kInitSize, 4)) {
    image.preferred_address = view.u64(kPreferredAddress);
    image.init_size_bytes = view.u32(kInitSize);
  }
  if (image.preferred_address < kHighMemoryStart || image.preferred_address >= kFourGiB)
    return fail(ErrorCode::kCorrupt, "not a kernel: a bzImage with an impossible load address");
  if (has(0x020c, kXLoadFlags, 2)) image.has_entry64 = (view.u16(kXLoadFlags) & kXlfKernel64) != 0;
  if (view.u16(kKernelVersion) != 0)
    image.version = printable_version(view, uint64_t{view.u16(kKernelVersion)} + 0x200);
  return image;
}

Result<BootResult> load_bzimage(const BootRequest& request) {
  BzImage image = RHEA_TRY(parse_bzimage(request.kernel));
  if (image.has_entry64) {
    auto unpacked = unpack_payload(image);
    if (unpacked) {
      auto vmlinux = parse_elf(*unpacked);
      if (vmlinux && vmlinux->is_64bit) return enter_unpacked(request, image, *vmlinux);
    } else if (unpacked.error().code() == ErrorCode::kCorrupt || unpacked.error().code() == ErrorCode::kExhausted) {
      return fail(unpacked.error().context("a damaged bzImage"));
    }
  }
  return enter_own_decompressor(request, image);
}

Result<BootResult> load_vmlinux(const BootRequest& request, const ElfImage& vmlinux) {
  Placement placement(request.map);
  RHEA_TRY(load_elf_segments(vmlinux, request.memory, placement));
  // No setup header comes with a bare vmlinux: make the little that the kernel reads from it.
  ByteImage header(kHeaderEndMax - kHeaderStart);
  header.put16(kBootFlag - kHeaderStart, kBootFlagValue);
  header.put32(kMagic - kHeaderStart, kMagicValue);
  header.put16(kVersion - kHeaderStart, 0x020c);
  header.put32(kKernelAlignment - kHeaderStart, 0x200000);
  Entry entry{.address = vmlinux.entry, .header = header.span()};
  BootResult result;
  result.state = RHEA_TRY(finish(request, placement, entry));
  result.description = fmt::format("64-bit ELF kernel, entry {:#x}", vmlinux.entry);
  return result;
}

}  // namespace rhea::machine
