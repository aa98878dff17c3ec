// SPDX-License-Identifier: Apache-2.0
// Pages out and back.
#include "devices/virtio/balloon/balloon.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices::virtio {

using namespace balloon;

namespace {

constexpr unsigned kInflate = 0, kDeflate = 1;
constexpr uint16_t kQueueSize = 128;
constexpr size_t kPagesAtATime = 4096;
constexpr uint64_t kMaximumNumbers = 4 << 20;  // bytes of page numbers that are looked at in one buffer

}  // namespace

Result<std::unique_ptr<Balloon>> Balloon::create(const std::string& name, const Context& context) {
  std::unique_ptr<Balloon> device(new Balloon(name, context));
  device->bell_ = RHEA_TRY(base::Doorbell::create(context.thread.loop(), [raw = device.get()] { raw->serve(); }));
  return device;
}

Balloon::Balloon(const std::string& name, const Context& context)
    : VirtioDevice({.name = name,
                    .type = DeviceType::kBalloon,
                    .features = kFeatureStatistics | kFeatureDeflateOnOom | kFeatureReporting,
                    .queue_sizes = std::vector<uint16_t>(4, kQueueSize),
                    .configuration_bytes = kConfigurationBytes},
                   context.memory),
      thread_(context.thread) {}

Balloon::~Balloon() { set_status(0); }

void Balloon::set_target(uint64_t bytes) {
  const uint64_t pages = std::min(bytes, memory().total_bytes()) / kPageBytes;
  target_pages_ = static_cast<uint32_t>(std::min<uint64_t>(pages, 0xffffffff));
  configuration_changed();
}

void Balloon::request_statistics() {
  statistics_wanted_ = true;
  bell_->ring();
}

Balloon::Statistics Balloon::statistics() const {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

// ---- life ----

void Balloon::on_start() {
  thread_.run_sync([this] { serving_ = true; });
  bell_->ring();
}

void Balloon::on_stop() {
  thread_.run_sync([this] { serving_ = false; });
}

void Balloon::on_reset() {
  statistics_chain_.reset();
  actual_pages_ = 0;
}

void Balloon::on_queue_stopped(unsigned index) {
  thread_.run_sync([this, index] {
    queue(index).stop();
    if (negotiated(kFeatureStatistics) && index == statistics_queue()) statistics_chain_.reset();
  });
}

// ---- queues ----

void Balloon::serve() {
  if (!serving_) return;
  serve_inflate();
  serve_deflate();
  if (negotiated(kFeatureStatistics)) serve_statistics();
  if (negotiated(kFeatureReporting)) serve_reports();
  for (unsigned index = 0; index < queue_count(); ++index)
    if (queue(index).broken()) return needs_reset();
}

void Balloon::discard(memory::GuestPhysAddr start, uint64_t length_bytes) {
  returned_bytes_ += memory().discard(start, length_bytes);
}

// Page numbers, in any order: neighbours go in one piece. [VIRTIO-1.2 5.5.6]
void Balloon::serve_inflate() {
  Queue& ring = queue(kInflate);
  while (auto chain = ring.pop()) {
    for (uint64_t done = 0; done < std::min(chain->readable_bytes, kMaximumNumbers);) {
      std::vector<uint32_t> pages(kPagesAtATime);
      const size_t got = read_from(chain->readable, done, std::as_writable_bytes(std::span(pages)));
      done += got;
      pages.resize(got / sizeof(uint32_t));
      std::ranges::sort(pages);
      for (size_t first = 0; first < pages.size();) {
        size_t next = first + 1;
        while (next < pages.size() && pages[next] - pages[next - 1] <= 1) ++next;
        const uint64_t count = uint64_t{pages[next - 1]} - pages[first] + 1;
        discard({uint64_t{pages[first]} * kPageBytes}, count * kPageBytes);
        first = next;
      }
    }
    ring.push(*chain, 0);
    signal(kInflate);
  }
}

// The guest uses them again: the host gives memory with the first write.
void Balloon::serve_deflate() {
  Queue& ring = queue(kDeflate);
  while (auto chain = ring.pop()) {
    ring.push(*chain, 0);
    signal(kDeflate);
  }
}

// The driver puts statistics into a buffer, which comes back when new ones are wanted. [VIRTIO-1.2 5.5.6.3]
void Balloon::serve_statistics() {
  Queue& ring = queue(statistics_queue());
  const auto give_back = [&](const Chain& chain) {
    ring.push(chain, 0);
    signal(statistics_queue());
  };
  while (auto chain = ring.pop()) {
    read_statistics(*chain);
    if (statistics_chain_) give_back(*statistics_chain_);
    statistics_chain_ = std::move(chain);
  }
  if (!statistics_chain_ || !statistics_wanted_.exchange(false)) return;
  give_back(*statistics_chain_);
  statistics_chain_.reset();
}

void Balloon::read_statistics(const Chain& chain) {
  Statistics found;
  std::byte entry[kStatisticBytes];
  constexpr uint64_t kMost = 64;  // entries looked at
  for (uint64_t i = 0; i < kMost && read_from(chain.readable, i * sizeof entry, entry) == sizeof entry; ++i) {
    uint16_t tag = 0;
    uint64_t value = 0;
    std::memcpy(&tag, entry, 2);
    std::memcpy(&value, entry + 2, 8);
    if (tag < found.size()) found[tag] = value;
  }
  const std::lock_guard lock(mutex_);
  statistics_ = found;
}

// Ranges that the guest does not touch until they are back with it. [VIRTIO-1.2 5.5.6.7]
void Balloon::serve_reports() {
  const unsigned index = reporting_queue();
  Queue& ring = queue(index);
  while (auto chain = ring.pop()) {
    for (const Segment& segment : chain->writable) discard(segment.address, segment.length_bytes);
    ring.push(*chain, 0);
    signal(index);
  }
}

// ---- configuration ----

void Balloon::fill_configuration(std::span<std::byte> out) {
  const uint32_t target = target_pages_, actual = actual_pages_;
  std::memcpy(out.data() + kTargetPages, &target, 4);
  std::memcpy(out.data() + kActualPages, &actual, 4);
}

void Balloon::on_configuration_written(uint32_t offset, std::span<const std::byte> data) {
  if (offset != kActualPages || data.size() != 4) return;
  uint32_t pages = 0;
  std::memcpy(&pages, data.data(), 4);
  actual_pages_ = pages;
}

// ---- state ----

void Balloon::save_device(state::StateWriter& writer) const {
  writer.field("target_pages", target_pages_.load());
  writer.field("actual_pages", actual_pages_.load());
  writer.field("statistics_wanted", statistics_wanted_.load());
  std::vector<SavedChain> held;
  if (statistics_chain_) held.push_back(SavedChain::of(*statistics_chain_));
  writer.field("held", held);
}

void Balloon::load_device(state::StateReader& reader) {
  uint32_t target = 0, actual = 0;
  bool wanted = false;
  std::vector<SavedChain> held;
  reader.field("target_pages", target);
  reader.field("actual_pages", actual);
  reader.field("statistics_wanted", wanted);
  reader.field("held", held);
  reader.validate(held.size() <= 1, "holds more than one buffer");
  if (!reader.ok()) return;
  target_pages_ = target;
  actual_pages_ = actual;
  statistics_wanted_ = wanted;
  if (held.empty()) return;
  statistics_chain_ = queue(statistics_queue()).restore(held.front());
  reader.validate(statistics_chain_.has_value(), "holds a buffer that is no RAM");
}

}  // namespace rhea::devices::virtio
