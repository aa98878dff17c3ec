// SPDX-License-Identifier: Apache-2.0
// Any file as a kernel: nothing may crash, read out of bounds or take more memory than the loaders allow.
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/check.h"
#include "machine/boot/loader.h"
#include "machine/pc/layout.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::machine;
  static const MemoryLayout layout = *MemoryLayout::create(uint64_t{32} << 20, 40);
  static const MemoryMap map = layout.memory_map();
  static const std::unique_ptr<rhea::memory::GuestMemory> memory = [] {
    auto extents = layout.extents();
    return std::move(*rhea::memory::GuestMemory::create(extents, {}));
  }();
  static const std::vector<BootModule> modules = {{.data = std::vector<std::byte>(5000), .command_line = "module"}};
  auto result = load_kernel({.kernel = std::as_bytes(std::span(data, size)),
                             .modules = modules,
                             .command_line = "console=ttyS0",
                             .map = map,
                             .memory = *memory,
                             .rsdp_address = 0xe0000});
  if (!result) RHEA_CHECK(!result.error().to_string().empty());
  return 0;
}
