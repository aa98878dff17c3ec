// SPDX-License-Identifier: Apache-2.0
// The virtio block device over a block::Disk. Spec: [VIRTIO-1.2 5.2].
// Not implemented: secure erase, lifetime, zoned storage (not offered).
// Threads: requests are taken, started and finished on the I/O thread; data moves between guest RAM and the disk
// without a copy of ours.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "base/io_thread.h"
#include "block/disk.h"
#include "devices/virtio/virtio_device.h"

namespace rhea::devices::virtio {

class Blk final : public VirtioDevice {
 public:
  struct Options {
    std::string name = "disk0";
    std::string serial;  // up to 20 bytes; empty: none
    unsigned queues = 1;
    uint16_t queue_size = 256;
    uint32_t block_bytes = 0;  // what the guest sees as the disk's blocks: 512 or 4096; 0: as the disk has them
  };
  struct Context {
    memory::GuestMemory& memory;
    base::IoThread& thread;  // the disk's loop runs there
    std::unique_ptr<block::Disk> disk;
  };
  static Result<std::unique_ptr<Blk>> create(Options options, Context context);
  ~Blk() override;

 protected:
  void on_start() override;
  void on_stop() override;
  void on_queue_started(unsigned queue) override { on_notify(queue); }
  void on_queue_stopped(unsigned queue) override;
  void on_notify(unsigned queue) override;
  void fill_configuration(std::span<std::byte> out) override;
  void on_configuration_written(uint32_t offset, std::span<const std::byte> data) override;
  void save_device(state::StateWriter& writer) const override;
  void load_device(state::StateReader& reader) override;

 private:
  struct Job;
  Blk(Options options, Context context);
  void serve_rung();
  void serve(unsigned queue);
  void start(unsigned queue, Chain chain);
  void start_transfer(std::shared_ptr<Job> job, bool write);
  void start_ranges(std::shared_ptr<Job> job, bool zeroes);
  void next_range(std::shared_ptr<Job> job);
  void get_id(Job& job);
  void submit(std::shared_ptr<Job> job, block::Request request);
  void finish(Job& job, uint8_t status);
  void drain();
  bool writeback() const;
  uint32_t block_bytes() const;
  uint64_t sectors() const;  // of 512 bytes; whole blocks

  const Options options_;
  base::IoThread& thread_;
  std::unique_ptr<block::Disk> disk_;
  std::unique_ptr<base::Doorbell> bell_;
  std::atomic<uint64_t> rung_{0};      // queues notified
  std::atomic<bool> writeback_{true};  // the guest may switch the write cache off
  bool serving_ = false;               // I/O thread
  unsigned in_flight_ = 0;             // I/O thread
};

}  // namespace rhea::devices::virtio
