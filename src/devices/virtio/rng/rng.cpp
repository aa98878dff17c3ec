// SPDX-License-Identifier: Apache-2.0
// Entropy for the guest.
#include "devices/virtio/rng/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <array>

namespace rhea::devices::virtio {

namespace {
constexpr uint64_t kMaximumBytes = 4096;  // of one buffer: a driver that wants more asks again
}

Result<std::unique_ptr<Rng>> Rng::create(const std::string& name, const Context& context) {
  std::unique_ptr<Rng> rng(new Rng(name, context));
  rng->bell_ = RHEA_TRY(base::Doorbell::create(context.thread.loop(), [device = rng.get()] { device->serve(); }));
  return rng;
}

Rng::Rng(const std::string& name, const Context& context)
    : VirtioDevice({.name = name, .type = DeviceType::kEntropy, .queue_sizes = {64}}, context.memory),
      thread_(context.thread) {}

Rng::~Rng() { set_status(0); }

void Rng::on_start() {
  thread_.run_sync([this] { serving_ = true; });
  bell_->ring();
}

void Rng::on_stop() {
  thread_.run_sync([this] { serving_ = false; });
}

void Rng::on_queue_stopped(unsigned index) {
  thread_.run_sync([this, index] { queue(index).stop(); });
}

void Rng::serve() {
  if (!serving_) return;
  Queue& ring = queue(0);
  while (auto chain = ring.pop()) {
    std::array<std::byte, kMaximumBytes> bytes;
    const ssize_t got = getrandom(bytes.data(), std::min(chain->writable_bytes, kMaximumBytes), 0);
    const auto count = static_cast<size_t>(std::max<ssize_t>(got, 0));
    write_to(memory(), chain->writable, 0, std::span(bytes).first(count));
    ring.push(*chain, static_cast<uint32_t>(count));
    signal(0);
  }
  if (ring.broken()) needs_reset();
}

}  // namespace rhea::devices::virtio
