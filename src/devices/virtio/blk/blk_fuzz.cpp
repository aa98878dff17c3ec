// SPDX-License-Identifier: Apache-2.0
// The block device with a hostile driver, over a disk in memory that checks what it is asked for.
#include <cstring>

#include "base/check.h"
#include "devices/virtio/blk/blk.h"
#include "devices/virtio/blk/blk_wire.h"
#include "devices/virtio/virtio_device_fuzz.h"

namespace {

using namespace rhea;
using namespace rhea::devices::virtio;

class MemoryDisk final : public block::Disk {
 public:
  uint64_t size_bytes() const override { return 64 << 10; }
  bool read_only() const override { return false; }
  std::string_view format() const override { return "memory"; }
  void submit(block::Request request) override {
    uint64_t total = 0;
    for (const iovec& piece : request.buffers) {
      if (request.operation == block::Operation::kRead) std::memset(piece.iov_base, 0x5a, piece.iov_len);
      total += piece.iov_len;
    }
    RHEA_CHECK(request.offset <= size_bytes() && request.length <= size_bytes() - request.offset);
    RHEA_CHECK(request.operation > block::Operation::kWrite || total == request.length);
    request.done(request.offset == 0x8000 ? 5 : 0);
  }
};

std::vector<uint8_t> request(uint32_t type, uint64_t sector, std::vector<uint8_t> more = {}) {
  std::vector<uint8_t> bytes(16);
  std::memcpy(&bytes[0], &type, 4);
  std::memcpy(&bytes[8], &sector, 8);
  bytes.insert(bytes.end(), more.begin(), more.end());
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<uint8_t> range = {1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0};
  const FuzzedDevice device{
      .create =
          [](memory::GuestMemory& memory, base::IoThread& thread) {
            return std::unique_ptr<VirtioDevice>(
                std::move(*Blk::create({.serial = "fuzz", .queues = 2},
                                       {.memory = memory, .thread = thread, .disk = std::make_unique<MemoryDisk>()})));
          },
      .queues = 2,
      .requests = {request(blk::kIn, 1), request(blk::kOut, 64), request(blk::kIn, 127), request(blk::kFlush, 0),
                   request(blk::kGetId, 0), request(blk::kDiscard, 0, range), request(blk::kWriteZeroes, 0, range),
                   request(99, 0)}};
  return fuzz_virtio(device, data, size);
}
