// SPDX-License-Identifier: Apache-2.0
// Block requests.
#include "devices/virtio/blk/blk.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "devices/virtio/blk/blk_wire.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices::virtio {

using namespace blk;

namespace {

constexpr unsigned kMaximumQueues = 64;
constexpr uint32_t kMaximumRangeSectors = 1u << 22;  // 2 GiB a range
constexpr uint32_t kMaximumRanges = 64;
constexpr uint16_t kSegmentsBesideData = 2;  // header and status

uint64_t features_of(const block::Disk& disk, unsigned queues) {
  uint64_t features = kFeatureSegmentMaximum | kFeatureBlockSize | kFeatureFlush | kFeatureTopology;
  if (queues > 1) features |= kFeatureQueues;
  return features |
         (disk.read_only() ? kFeatureReadOnly : kFeatureWriteCacheSwitch | kFeatureDiscard | kFeatureWriteZeroes);
}

template <class T>
void put(std::span<std::byte> out, uint32_t offset, T value) {
  std::memcpy(out.data() + offset, &value, sizeof value);
}

}  // namespace

struct Blk::Job {
  unsigned queue = 0;
  Chain chain;
  Segment status;                      // one byte
  uint32_t written = 0;                // bytes of the writable part that hold data, but for the status
  std::vector<block::Request> ranges;  // discard and write-zeroes: what is left to do, last first
};

Result<std::unique_ptr<Blk>> Blk::create(Options options, Context context) {
  if (options.queues == 0 || options.queues > kMaximumQueues)
    return fail(ErrorCode::kInvalidArgument, "a disk has 1 to 64 queues");
  if (options.serial.size() > kSerialBytes)
    return fail(ErrorCode::kInvalidArgument, "a disk's serial number has at most 20 characters");
  base::IoThread& thread = context.thread;
  std::unique_ptr<Blk> blk(new Blk(std::move(options), std::move(context)));
  blk->bell_ = RHEA_TRY(base::Doorbell::create(thread.loop(), [device = blk.get()] { device->serve_rung(); }));
  return blk;
}

Blk::Blk(Options options, Context context)
    : VirtioDevice({.name = options.name,
                    .type = DeviceType::kBlock,
                    .features = features_of(*context.disk, options.queues),
                    .queue_sizes = std::vector<uint16_t>(options.queues, options.queue_size),
                    .configuration_bytes = kConfigurationBytes},
                   context.memory),
      options_(std::move(options)),
      thread_(context.thread),
      disk_(std::move(context.disk)) {}

Blk::~Blk() {
  set_status(0);
  bell_.reset();
  thread_.run_sync([this] { disk_.reset(); });
}

// ---- life ----

void Blk::on_start() {
  thread_.run_sync([this] { serving_ = true; });
  rung_ = ~uint64_t{0};  // buffers may have been made available before DRIVER_OK was seen
  bell_->ring();
}

void Blk::on_stop() {
  thread_.run_sync([this] {
    serving_ = false;
    drain();
  });
}

void Blk::on_queue_stopped(unsigned index) {
  thread_.run_sync([this, index] {
    queue(index).stop();  // nothing new is taken from it
    drain();
  });
}

void Blk::drain() {
  while (in_flight_ != 0) thread_.loop().run_once(-1);
}

void Blk::on_notify(unsigned queue) {
  rung_.fetch_or(uint64_t{1} << queue, std::memory_order_release);
  bell_->ring();
}

// ---- taking requests ----

void Blk::serve_rung() {
  const uint64_t rung = rung_.exchange(0, std::memory_order_acquire);
  for (unsigned index = 0; index < queue_count() && serving_; ++index)
    if (rung >> index & 1) serve(index);
}

void Blk::serve(unsigned index) {
  Queue& ring = queue(index);
  for (;;) {
    ring.set_notifications(false);
    while (auto chain = ring.pop()) start(index, std::move(*chain));
    if (ring.broken()) return needs_reset();
    ring.set_notifications(true);
    if (ring.empty()) return;
  }
}

void Blk::start(unsigned index, Chain chain) {
  auto job = std::make_shared<Job>(Job{.queue = index, .chain = std::move(chain)});
  Chain& c = job->chain;
  // The status is the last byte that the device may write; without one there is no way to answer.
  if (c.writable_bytes == 0 || c.readable_bytes < kHeaderBytes) return needs_reset();
  Segment& last = c.writable.back();
  job->status = {last.host + last.length_bytes - 1, 1, last.address + (last.length_bytes - 1)};
  if (--last.length_bytes == 0) c.writable.pop_back();
  --c.writable_bytes;
  ++in_flight_;
  std::byte header[kHeaderBytes];
  read_from(c.readable, 0, header);
  uint32_t type = 0;
  std::memcpy(&type, header, 4);
  switch (type) {
    case kIn: return start_transfer(std::move(job), false);
    case kOut: return start_transfer(std::move(job), true);
    case kFlush: return submit(std::move(job), {.operation = block::Operation::kFlush});
    case kGetId: return get_id(*job);
    case kDiscard: return start_ranges(std::move(job), false);
    case kWriteZeroes: return start_ranges(std::move(job), true);
    default: return finish(*job, kUnsupported);
  }
}

void Blk::start_transfer(std::shared_ptr<Job> job, bool write) {
  uint64_t sector = 0;
  std::byte header[kHeaderBytes];
  read_from(job->chain.readable, 0, header);
  std::memcpy(&sector, header + 8, 8);
  const uint64_t bytes = write ? job->chain.readable_bytes - kHeaderBytes : job->chain.writable_bytes;
  const uint64_t sectors = this->sectors();
  if (write && disk_->read_only()) return finish(*job, kIoError);
  if (bytes % kSectorBytes != 0 || sector > sectors || bytes / kSectorBytes > sectors - sector)
    return finish(*job, kIoError);
  if (bytes == 0) return finish(*job, kOk);
  block::Request request{.operation = write ? block::Operation::kWrite : block::Operation::kRead,
                         .offset = sector * kSectorBytes,
                         .length = bytes};
  uint64_t skip = write ? kHeaderBytes : 0;
  for (const Segment& segment : write ? job->chain.readable : job->chain.writable) {
    if (skip >= segment.length_bytes) {
      skip -= segment.length_bytes;
      continue;
    }
    request.buffers.push_back({segment.host + skip, segment.length_bytes - skip});
    skip = 0;
  }
  if (!write) job->written = static_cast<uint32_t>(bytes);
  submit(std::move(job), std::move(request));
}

// One or several ranges, done one after the other. [VIRTIO-1.2 5.2.6]
void Blk::start_ranges(std::shared_ptr<Job> job, bool zeroes) {
  const uint64_t bytes = job->chain.readable_bytes - kHeaderBytes;
  const uint64_t count = bytes / kRangeBytes;
  if (disk_->read_only() || bytes % kRangeBytes != 0 || count == 0 || count > kMaximumRanges)
    return finish(*job, kIoError);
  const uint64_t sectors = this->sectors();
  for (uint64_t i = count; i-- > 0;) {
    std::byte range[kRangeBytes];
    read_from(job->chain.readable, kHeaderBytes + i * kRangeBytes, range);
    uint64_t sector = 0;
    uint32_t length = 0, flags = 0;
    std::memcpy(&sector, range, 8);
    std::memcpy(&length, range + 8, 4);
    std::memcpy(&flags, range + 12, 4);
    if ((flags & ~kRangeUnmap) || (!zeroes && flags)) return finish(*job, kUnsupported);
    if (length > kMaximumRangeSectors || sector > sectors || length > sectors - sector) return finish(*job, kIoError);
    job->ranges.push_back({.operation = zeroes ? block::Operation::kWriteZeroes : block::Operation::kDiscard,
                           .offset = sector * kSectorBytes,
                           .length = uint64_t{length} * kSectorBytes,
                           .may_unmap = (flags & kRangeUnmap) != 0});
  }
  next_range(std::move(job));
}

void Blk::next_range(std::shared_ptr<Job> job) {
  if (job->ranges.empty()) return finish(*job, kOk);
  block::Request request = std::move(job->ranges.back());
  job->ranges.pop_back();
  submit(std::move(job), std::move(request));
}

void Blk::get_id(Job& job) {
  char id[kSerialBytes] = {};
  std::copy(options_.serial.begin(), options_.serial.end(), id);
  job.written = static_cast<uint32_t>(write_to(memory(), job.chain.writable, 0, std::as_bytes(std::span(id))));
  finish(job, kOk);
}

// ---- finishing ----

bool Blk::writeback() const { return negotiated(kFeatureFlush) && writeback_; }

void Blk::submit(std::shared_ptr<Job> job, block::Request request) {
  const bool write = request.operation != block::Operation::kRead && request.operation != block::Operation::kFlush;
  request.done = [this, job = std::move(job), write](int error) {
    if (error) return finish(*job, kIoError);
    if (!job->ranges.empty()) return next_range(job);
    if (!write || writeback()) return finish(*job, kOk);
    // Without a write cache, what is done is on the medium.
    disk_->submit({.operation = block::Operation::kFlush,
                   .done = [this, job](int flush_error) { finish(*job, flush_error ? kIoError : kOk); }});
  };
  disk_->submit(std::move(request));
}

void Blk::finish(Job& job, uint8_t status) {
  if (job.written) mark_written(memory(), job.chain.writable, job.written);
  if (status != kOk) job.written = 0;
  const auto byte = std::byte{status};
  write_to(memory(), std::span(&job.status, 1), 0, std::span(&byte, 1));
  queue(job.queue).push(job.chain, job.written + 1);
  signal(job.queue);
  --in_flight_;
}

// ---- configuration ----

uint32_t Blk::block_bytes() const { return std::max(options_.block_bytes, disk_->block_bytes()); }

uint64_t Blk::sectors() const { return disk_->size_bytes() / block_bytes() * (block_bytes() / kSectorBytes); }

void Blk::fill_configuration(std::span<std::byte> out) {
  put<uint64_t>(out, kCapacity, sectors());
  put<uint32_t>(out, kSegmentMaximum, options_.queue_size - kSegmentsBesideData);
  put<uint32_t>(out, kBlockSize, block_bytes());
  const uint32_t physical = std::max(disk_->optimal_block_bytes(), block_bytes());
  put<uint8_t>(out, kPhysicalBlockExponent, static_cast<uint8_t>(std::countr_zero(physical / block_bytes())));
  put<uint16_t>(out, kMinimumIoSize, static_cast<uint16_t>(physical / block_bytes()));
  put<uint8_t>(out, kWriteback, writeback_);
  put<uint16_t>(out, kQueueCount, static_cast<uint16_t>(options_.queues));
  put<uint32_t>(out, kDiscardSectors, kMaximumRangeSectors);
  put<uint32_t>(out, kDiscardSegments, kMaximumRanges);
  put<uint32_t>(out, kDiscardAlignment, physical / kSectorBytes);
  put<uint32_t>(out, kZeroesSectors, kMaximumRangeSectors);
  put<uint32_t>(out, kZeroesSegments, kMaximumRanges);
  put<uint8_t>(out, kZeroesMayUnmap, 1);
}

void Blk::on_configuration_written(uint32_t offset, std::span<const std::byte> data) {
  if (offset == kWriteback && data.size() == 1 && negotiated(kFeatureWriteCacheSwitch))
    writeback_ = data[0] != std::byte{0};
}

void Blk::save_device(state::StateWriter& writer) const { writer.field("writeback", writeback_.load()); }

void Blk::load_device(state::StateReader& reader) {
  bool writeback = true;
  reader.field("writeback", writeback);
  writeback_ = writeback;
}

}  // namespace rhea::devices::virtio
