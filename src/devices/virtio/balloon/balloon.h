// SPDX-License-Identifier: Apache-2.0
// The virtio balloon: memory that the guest does not use goes back to the host. Spec: [VIRTIO-1.2 5.5].
// Not implemented: free page hints (they serve migration), page poisoning (a driver that poisons pages reports none).
// Threads: queues are served on the I/O thread; targets and statistics from any.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/io_thread.h"
#include "devices/virtio/balloon/balloon_wire.h"
#include "devices/virtio/virtio_device.h"

namespace rhea::devices::virtio {

class Balloon final : public VirtioDevice {
 public:
  struct Context {
    memory::GuestMemory& memory;
    base::IoThread& thread;
  };
  // By StatisticTag; what the guest did not say is missing. Memory is in bytes.
  using Statistics = std::array<std::optional<uint64_t>, balloon::kStatisticCount>;

  static Result<std::unique_ptr<Balloon>> create(const std::string& name, const Context& context);
  ~Balloon() override;

  // How much of its memory the guest is asked to give away. It may take its time, or take memory back when it has none
  // left; actual_bytes() says where it stands.
  void set_target(uint64_t bytes);
  uint64_t actual_bytes() const { return uint64_t{actual_pages_} * balloon::kPageBytes; }
  // Asks the guest for new statistics; those that came last are statistics().
  void request_statistics();
  Statistics statistics() const;
  // Memory given back so far, by inflation and by reports.
  uint64_t returned_bytes() const { return returned_bytes_; }

 protected:
  void on_start() override;
  void on_stop() override;
  void on_reset() override;
  void on_notify(unsigned) override { bell_->ring(); }
  void on_queue_started(unsigned) override { bell_->ring(); }
  void on_queue_stopped(unsigned index) override;
  void fill_configuration(std::span<std::byte> out) override;
  void on_configuration_written(uint32_t offset, std::span<const std::byte> data) override;
  void save_device(state::StateWriter& writer) const override;
  void load_device(state::StateReader& reader) override;

 private:
  Balloon(const std::string& name, const Context& context);
  // Queues are numbered through, and those of features that were not negotiated do not count.
  unsigned statistics_queue() const { return 2; }
  unsigned reporting_queue() const { return negotiated(balloon::kFeatureStatistics) ? 3 : 2; }
  void serve();
  void serve_inflate();
  void serve_deflate();
  void serve_statistics();
  void serve_reports();
  void discard(memory::GuestPhysAddr start, uint64_t length_bytes);
  void read_statistics(const Chain& chain);

  base::IoThread& thread_;
  std::unique_ptr<base::Doorbell> bell_;
  bool serving_ = false;                   // I/O thread
  std::optional<Chain> statistics_chain_;  // I/O thread: given back when new ones are wanted
  std::atomic<bool> statistics_wanted_{false};
  std::atomic<uint32_t> target_pages_{0}, actual_pages_{0};
  std::atomic<uint64_t> returned_bytes_{0};
  mutable std::mutex mutex_;
  Statistics statistics_;  // under mutex_
};

}  // namespace rhea::devices::virtio
