// SPDX-License-Identifier: Apache-2.0
// A block device on PCI whose driver does anything: registers, MSI-X, rings, descriptors, resets at any time.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "devices/pci/pci_bus.h"
#include "devices/virtio/blk/blk.h"
#include "devices/virtio/pci_transport.h"
#include "testing/guest_memory_fake.h"

namespace {

using namespace rhea;
using namespace rhea::devices;

class MemoryDisk final : public block::Disk {
 public:
  uint64_t size_bytes() const override { return 64 << 10; }
  bool read_only() const override { return false; }
  std::string_view format() const override { return "memory"; }
  void submit(block::Request request) override {
    uint64_t total = 0;
    for (const iovec& piece : request.buffers) {
      std::memset(piece.iov_base, 0x5a, request.operation == block::Operation::kRead ? piece.iov_len : 0);
      total += piece.iov_len;
    }
    const bool transfer = request.operation <= block::Operation::kWrite;
    if (request.offset + request.length > size_bytes() || (transfer && total != request.length)) __builtin_trap();
    request.done(0);
  }
};

struct Input {
  const uint8_t* data;
  size_t left;
  uint64_t take(unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes && left; ++i, --left) value = value << 8 | *data++;
    return value;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* const thread = base::IoThread::create("fuzz-io")->release();
  constexpr uint64_t kRam = 256 << 10, kBar = 0xe0000000, kTable = 0xe0010000;
  testing::FakeGuestMemory memory(kRam);
  io::AddressSpace physical("physical", uint64_t{1} << 40), ports("ports", 65536);
  io::IrqRouter router;
  PciBus bus({.memory = physical, .ports = ports, .router = router});
  auto blk = *virtio::Blk::create({.queues = 2, .queue_size = 16},
                                  {.memory = memory.get(), .thread = *thread, .disk = std::make_unique<MemoryDisk>()});
  virtio::PciTransport transport(std::move(blk));
  if (!bus.add(transport, 2, 0)) return 0;
  bus.config_write(0, 2 << 3, 0x10, kBar, 4);
  bus.config_write(0, 2 << 3, 0x18, kTable, 4);
  bus.config_write(0, 2 << 3, 0x04, 6, 2);

  Input in{data, size};
  // Half of the time the driver starts as it should, so that the rings are reached.
  if (in.take(1) & 1) {
    const bool packed = in.take(1) & 1;
    const auto common = [&](uint64_t offset, uint64_t value, unsigned bytes) {
      physical.write(kBar + offset, value, bytes);
    };
    common(0x14, 3, 1);
    common(0x08, 0, 4);
    common(0x0c, 0x30006244, 4);
    common(0x08, 1, 4);
    common(0x0c, packed ? 5 : 1, 4);
    common(0x14, 11, 1);
    for (uint64_t queue = 0; queue < 2; ++queue) {
      common(0x16, queue, 2);
      common(0x18, 8, 2);
      common(0x20, 0x1000 + 0x3000 * queue, 4);
      common(0x28, 0x2000 + 0x3000 * queue, 4);
      common(0x30, 0x3000 + 0x3000 * queue, 4);
      common(0x1c, 1, 2);
    }
    common(0x14, 15, 1);
  }
  for (unsigned steps = 0; in.left && steps < 400; ++steps) {
    const uint64_t what = in.take(1);
    switch (what & 7) {
      case 0: physical.write(kBar + (in.take(2) & 0x3fff), in.take(4), 1u << (what >> 3 & 3)); break;
      case 1: physical.read(kBar + (in.take(2) & 0x3fff), 1u << (what >> 3 & 3)); break;
      case 2: physical.write(kTable + (in.take(2) & 0xffc), in.take(4), 4); break;
      case 3:
        bus.config_write(0, 2 << 3, static_cast<uint16_t>(in.take(1) & 0xfc), static_cast<uint32_t>(in.take(4)), 4);
        break;
      case 4: physical.write(kBar + 0x3000 + 4 * (what >> 3 & 1), 0, 2); break;
      case 5: memory.write<uint64_t>((in.take(2) & 0x1ff8) + 0x1000, in.take(8)); break;
      case 6: memory.write<uint16_t>((in.take(2) & 0x7ffe) + 0x1000, static_cast<uint16_t>(in.take(2))); break;
      case 7: bus.config_read(0, 2 << 3, static_cast<uint16_t>(in.take(1) & 0xfc), 4); break;
    }
  }
  transport.reset();
  return 0;
}
