// SPDX-License-Identifier: Apache-2.0
// Multiboot version 1 loading. [Multiboot-0.6.96 3]
#include "machine/boot/multiboot.h"

#include <fmt/format.h>

#include <algorithm>

#include "machine/boot/boot_cpu.h"
#include "machine/boot/byte_view.h"
#include "machine/boot/elf.h"
#include "machine/byte_image.h"

namespace rhea::machine {
namespace {

constexpr uint32_t kHeaderMagic = 0x1badb002, kLoaderMagic = 0x2badb002;
constexpr uint64_t kSearchBytes = 8192;
constexpr uint32_t kFlagAlignModules = 1u << 0, kFlagMemoryInfo = 1u << 1, kFlagVideoMode = 1u << 2;
constexpr uint32_t kRequiredFlags = 0xffff, kKnownFlags = kFlagAlignModules | kFlagMemoryInfo;
constexpr uint32_t kInfoMemory = 1u << 0, kInfoCommandLine = 1u << 2, kInfoModules = 1u << 3, kInfoMap = 1u << 6,
                   kInfoLoaderName = 1u << 9;
constexpr size_t kInfoBytes = 88, kModuleBytes = 16, kMapEntryBytes = 24;
constexpr size_t kCommandLineMax = 4095, kModulesMax = 256;
constexpr uint64_t kLowMemoryStart = 0x1000, kLowMemoryEnd = 0x9fc00, kHighMemoryStart = 0x100000,
                   kFourGiB = uint64_t{1} << 32;
constexpr std::string_view kLoaderName = "rhea";

// The address-field form: one piece of the file, loaded flat. [Multiboot-0.6.96 3.1.3]
Result<uint64_t> load_by_addresses(const BootRequest& request, const MultibootHeader& header, Placement& placement) {
  auto bad = [](std::string_view why) {
    return fail(ErrorCode::kCorrupt, fmt::format("a damaged Multiboot kernel: {}", why));
  };
  if (header.header_address < header.load_address) return bad("its header lies before its load address");
  uint64_t before_header = header.header_address - header.load_address;
  if (before_header > header.file_offset) return bad("its load address lies before the file's start");
  uint64_t file_start = header.file_offset - before_header;
  uint64_t data_bytes = request.kernel.size() - file_start;
  if (header.load_end != 0) {
    if (header.load_end < header.load_address) return bad("its data ends before its load address");
    uint64_t declared = header.load_end - header.load_address;
    if (declared > data_bytes) return bad("its data reaches beyond the end of the file");
    data_bytes = declared;
  }
  uint64_t memory_bytes = data_bytes;
  if (header.bss_end != 0) {
    if (header.bss_end < header.load_address + data_bytes) return bad("its BSS ends before its data");
    memory_bytes = header.bss_end - header.load_address;
  }
  RHEA_TRY(placement.claim(header.load_address, memory_bytes, "the kernel"));
  RHEA_TRY(write_zero_extended(request.memory, header.load_address, request.kernel.subspan(file_start, data_bytes),
                               memory_bytes));
  return header.entry;
}

Result<uint64_t> load_image(const BootRequest& request, const MultibootHeader& header, Placement& placement) {
  if (header.has_addresses()) return load_by_addresses(request, header, placement);
  if (!looks_like_elf(request.kernel))
    return fail(ErrorCode::kCorrupt,
                "a damaged Multiboot kernel: neither an ELF file nor address fields in its header");
  ElfImage image = RHEA_TRY(parse_elf(request.kernel));
  RHEA_TRY(load_elf_segments(image, request.memory, placement));
  if (image.entry >= kFourGiB) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("a Multiboot kernel whose entry {:#x} is above 4 GiB", image.entry));
  }
  // Kernels linked high give a virtual entry; the machine starts without paging. Take it to the segment's place.
  for (const ElfSegment& segment : image.segments) {
    if (image.entry >= segment.virtual_address && image.entry - segment.virtual_address < segment.memory_bytes)
      return image.entry - segment.virtual_address + segment.physical_address;
  }
  return image.entry;
}

struct Module {
  uint64_t start, end;
};
Result<std::vector<Module>> write_modules(const BootRequest& request, Placement& placement) {
  if (request.modules.size() > kModulesMax)
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} modules; at most {} can be given", request.modules.size(), kModulesMax));
  std::vector<Module> placed;
  for (const BootModule& module : request.modules) {
    uint64_t start = RHEA_TRY(placement.claim_low(std::max<uint64_t>(module.data.size(), 1), memory::kPageSize,
                                                  kHighMemoryStart, kFourGiB, "a module"));
    if (!module.data.empty() && !request.memory.write({start}, module.data))
      return fail(ErrorCode::kInternal, "cannot write a module");
    placed.push_back({start, start + module.data.size()});
  }
  return placed;
}

uint32_t kib_of_ram_from(const MemoryMap& map, uint64_t start) {
  for (const MemoryMapEntry& entry : map) {
    if (entry.type == MemoryType::kRam && entry.start <= start && start < entry.end())
      return static_cast<uint32_t>(std::min<uint64_t>((entry.end() - start) >> 10, 0xffffffff));
  }
  return 0;
}

// The information structure with everything that it points to, in one piece of low memory. [Multiboot-0.6.96 3.3]
Result<uint64_t> write_information(const BootRequest& request, Placement& placement,
                                   const std::vector<Module>& modules) {
  const size_t modules_at = kInfoBytes, map_at = modules_at + kModuleBytes * modules.size();
  const size_t name_at = map_at + kMapEntryBytes * request.map.size(), text_at = name_at + kLoaderName.size() + 1;
  size_t bytes = text_at + request.command_line.size() + 1;
  for (const BootModule& module : request.modules) bytes += module.command_line.size() + 1;
  uint64_t base = RHEA_TRY(placement.claim_low(bytes, 16, kLowMemoryStart, kLowMemoryEnd, "the Multiboot information"));
  auto address = [&](size_t offset) { return static_cast<uint32_t>(base + offset); };

  ByteImage info(kInfoBytes);
  uint32_t flags = kInfoMemory | kInfoCommandLine | kInfoMap | kInfoLoaderName | (modules.empty() ? 0 : kInfoModules);
  info.put32(0, flags);
  info.put32(4, kib_of_ram_from(request.map, 0));
  info.put32(8, kib_of_ram_from(request.map, kHighMemoryStart));
  info.put32(16, address(text_at));
  info.put32(20, static_cast<uint32_t>(modules.size()));
  info.put32(24, modules.empty() ? 0 : address(modules_at));
  info.put32(44, static_cast<uint32_t>(kMapEntryBytes * request.map.size()));
  info.put32(48, address(map_at));
  info.put32(64, address(name_at));
  size_t text = text_at + request.command_line.size() + 1;
  for (size_t i = 0; i < modules.size(); ++i) {
    info.u32(static_cast<uint32_t>(modules[i].start))
        .u32(static_cast<uint32_t>(modules[i].end))
        .u32(address(text))
        .u32(0);
    text += request.modules[i].command_line.size() + 1;
  }
  for (const MemoryMapEntry& entry : request.map)
    info.u32(kMapEntryBytes - 4).u64(entry.start).u64(entry.size_bytes).u32(static_cast<uint32_t>(entry.type));
  info.text(kLoaderName).u8(0).text(request.command_line).u8(0);
  for (const BootModule& module : request.modules) info.text(module.command_line).u8(0);
  RHEA_CHECK(info.size() == bytes);
  if (!request.memory.write({base}, info.span()))
    return fail(ErrorCode::kInternal, "cannot write the Multiboot information");
  return base;
}

}  // namespace

std::optional<MultibootHeader> find_multiboot_header(std::span<const std::byte> file) {
  ByteView view(file.first(std::min<size_t>(file.size(), kSearchBytes)));
  for (uint64_t at = 0; view.contains(at, 12); at += 4) {
    if (view.u32(at) != kHeaderMagic) continue;
    uint32_t flags = view.u32(at + 4);
    if (kHeaderMagic + flags + view.u32(at + 8) != 0) continue;
    MultibootHeader header{.file_offset = at, .flags = flags};
    if (header.has_addresses()) {
      if (!view.contains(at, 32)) continue;
      header.header_address = view.u32(at + 12);
      header.load_address = view.u32(at + 16);
      header.load_end = view.u32(at + 20);
      header.bss_end = view.u32(at + 24);
      header.entry = view.u32(at + 28);
    }
    return header;
  }
  return std::nullopt;
}

Result<BootResult> load_multiboot(const BootRequest& request) {
  auto header = find_multiboot_header(request.kernel);
  if (!header) return fail(ErrorCode::kCorrupt, "not a kernel: no Multiboot header");
  uint32_t unmet = header->flags & kRequiredFlags & ~kKnownFlags;
  if (unmet & kFlagVideoMode)
    return fail(ErrorCode::kUnsupported, "a Multiboot kernel that requires a video mode; this machine has no display");
  if (unmet != 0)
    return fail(ErrorCode::kUnsupported,
                fmt::format("a Multiboot kernel that requires unknown features (flags {:#x})", unmet));
  if (request.command_line.size() > kCommandLineMax) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the kernel command line has {} characters; at most {} can be given",
                            request.command_line.size(), kCommandLineMax));
  }
  Placement placement(request.map);
  uint64_t entry = RHEA_TRY(load_image(request, *header, placement));
  std::vector<Module> modules = RHEA_TRY(write_modules(request, placement));
  uint64_t info = RHEA_TRY(write_information(request, placement, modules));
  uint64_t gdt = RHEA_TRY(write_boot_gdt(request.memory, placement, BootMode::kProtected32));
  BootResult result;
  enter_protected32(result.state, gdt, static_cast<uint32_t>(entry));
  result.state.gpr[cpu::kRax] = kLoaderMagic;
  result.state.gpr[cpu::kRbx] = info;
  result.description =
      fmt::format("Multiboot kernel{}, entry {:#x}", header->has_addresses() ? " (address fields)" : "", entry);
  return result;
}

}  // namespace rhea::machine
