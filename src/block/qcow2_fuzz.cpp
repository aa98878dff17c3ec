// SPDX-License-Identifier: Apache-2.0
// Opening, reading and writing an image that a stranger made.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "block/disk.h"
#include "block/layer.h"
#include "block/qcow2_check.h"
#include "block/qcow2_disk.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea;
  static auto* const loop = base::EventLoop::create()->release();
  rhea::base::UniqueFd fd(memfd_create("image", MFD_CLOEXEC));
  if (size < 16 || write(fd.get(), data, size) != static_cast<ssize_t>(size)) return 0;
  std::vector<std::byte> head(size_t{1} << 16);
  if (block::read_fully(fd.get(), 0, head) != 0) return 0;
  if (const auto header = block::qcow2::parse_header(head); header && header->l1_entries < 4096) {
    // Repaired is clean, whatever it was; and what cannot be repaired is as it was.
    const auto report = block::qcow2::check_image_file(fd.get(), *header, {.repair = data[7] % 2 != 0});
    if (report && report->repaired && block::read_fully(fd.get(), 0, head) == 0) {
      const auto again = block::qcow2::check_image_file(fd.get(), *block::qcow2::parse_header(head), {});
      if (!again || !again->clean()) __builtin_trap();
    }
  }
  auto disk =
      block::open_qcow2_disk(*loop, std::move(fd), "/nowhere/image", {.format = "qcow2", .allow_io_uring = false});
  if (!disk) return 0;
  std::vector<std::byte> buffer(8192, std::byte{0x5a});
  for (unsigned i = 0; i < 16; ++i) {
    const uint64_t sectors = (*disk)->size_bytes() / 512;
    if (sectors < 16) break;
    const uint64_t sector = (uint64_t{data[i]} << (i * 3)) % (sectors - 15);
    bool done = false;
    (*disk)->submit({.operation = static_cast<block::Operation>(data[15 - i] % 5),
                     .offset = sector * 512,
                     .length = 8192,
                     .buffers = {{buffer.data(), buffer.size()}},
                     .may_unmap = true,
                     .done = [&](int) { done = true; }});
    while (!done) loop->run_once(100);
  }
  return 0;
}
