// SPDX-License-Identifier: Apache-2.0
// PVH direct boot with start info version 1. [Xen public/arch-x86/hvm/start_info.h]
#include "machine/boot/pvh.h"

#include <fmt/format.h>

#include "machine/boot/boot_cpu.h"
#include "machine/byte_image.h"

namespace rhea::machine {
namespace {

constexpr uint32_t kStartInfoMagic = 0x336ec578;
constexpr size_t kStartInfoBytes = 56, kModuleBytes = 32, kMapEntryBytes = 24;
constexpr size_t kCommandLineMax = 2047;
constexpr size_t kModulesMax = 64;
constexpr uint64_t kLowMemoryStart = 0x1000, kLowMemoryEnd = 0x9fc00;
constexpr uint64_t kHighMemoryStart = 0x100000, kFourGiB = uint64_t{1} << 32;

Result<std::vector<uint64_t>> write_modules(const BootRequest& request, Placement& placement) {
  if (request.modules.size() > kModulesMax)
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} modules; at most {} can be given", request.modules.size(), kModulesMax));
  std::vector<uint64_t> addresses;
  for (const BootModule& module : request.modules) {
    uint64_t address = RHEA_TRY(placement.claim_high(module.data.size(), memory::kPageSize, kHighMemoryStart, kFourGiB,
                                                     "the initial RAM disk"));
    if (!module.data.empty() && !request.memory.write({address}, module.data))
      return fail(ErrorCode::kInternal, "cannot write the initial RAM disk");
    addresses.push_back(address);
  }
  return addresses;
}

// Start info, module list, memory map and strings in one piece of low memory.
Result<uint64_t> write_start_info(const BootRequest& request, Placement& placement,
                                  const std::vector<uint64_t>& modules) {
  const size_t modules_at = kStartInfoBytes, map_at = modules_at + kModuleBytes * modules.size();
  const size_t text_at = map_at + kMapEntryBytes * request.map.size();
  size_t bytes = text_at + request.command_line.size() + 1;
  for (const BootModule& module : request.modules) bytes += module.command_line.size() + 1;
  uint64_t base = RHEA_TRY(placement.claim_low(bytes, 16, kLowMemoryStart, kLowMemoryEnd, "the PVH start info"));

  ByteImage info;
  info.u32(kStartInfoMagic).u32(1).u32(0).u32(static_cast<uint32_t>(modules.size()));
  info.u64(modules.empty() ? 0 : base + modules_at).u64(base + text_at).u64(request.rsdp_address).u64(base + map_at);
  info.u32(static_cast<uint32_t>(request.map.size())).u32(0);
  uint64_t text = base + text_at + request.command_line.size() + 1;
  for (size_t i = 0; i < modules.size(); ++i) {
    info.u64(modules[i]).u64(request.modules[i].data.size()).u64(text).u64(0);
    text += request.modules[i].command_line.size() + 1;
  }
  for (const MemoryMapEntry& entry : request.map)
    info.u64(entry.start).u64(entry.size_bytes).u32(static_cast<uint32_t>(entry.type)).u32(0);
  info.text(request.command_line).u8(0);
  for (const BootModule& module : request.modules) info.text(module.command_line).u8(0);
  RHEA_CHECK(info.size() == bytes);
  if (!request.memory.write({base}, info.span())) return fail(ErrorCode::kInternal, "cannot write the PVH start info");
  return base;
}

}  // namespace

Result<BootResult> load_pvh(const BootRequest& request, const ElfImage& image) {
  if (request.command_line.size() > kCommandLineMax) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the kernel command line has {} characters; at most {} can be given",
                            request.command_line.size(), kCommandLineMax));
  }
  Placement placement(request.map);
  RHEA_TRY(load_elf_segments(image, request.memory, placement));
  std::vector<uint64_t> modules = RHEA_TRY(write_modules(request, placement));
  uint64_t info = RHEA_TRY(write_start_info(request, placement, modules));
  uint64_t gdt = RHEA_TRY(write_boot_gdt(request.memory, placement, BootMode::kProtected32));
  BootResult result;
  enter_protected32(result.state, gdt, image.pvh_entry.value_or(0));
  result.state.gpr[cpu::kRbx] = info;
  result.description =
      fmt::format("{}-bit ELF kernel, PVH entry {:#x}", image.is_64bit ? 64 : 32, image.pvh_entry.value_or(0));
  return result;
}

}  // namespace rhea::machine
