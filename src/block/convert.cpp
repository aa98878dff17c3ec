// SPDX-License-Identifier: Apache-2.0
#include "block/convert.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "block/disk.h"
#include "block/file_lock.h"
#include "block/image_tools.h"
#include "block/layer.h"

namespace rhea::block {
namespace {

constexpr uint64_t kChunkBytes = uint64_t{1} << 20;
constexpr uint64_t kGrainBytes = uint64_t{1} << 16;  // what is looked at for zeros, and a new qcow2 image's cluster
constexpr unsigned kSlots = 8;                       // chunks under way at once

bool all_zero(const std::byte* data, uint64_t bytes) {
  return data[0] == std::byte{0} && std::memcmp(data, data + 1, bytes - 1) == 0;
}

class Converter {
 public:
  Converter(base::EventLoop& loop, Disk& source, Disk& target, const ConvertOptions& options)
      : loop_(loop), source_(source), target_(target), options_(options), total_(source.size_bytes()) {}

  // 0 or an errno value, and which side it was.
  int run() {
    for (unsigned i = 0; i < kSlots; ++i) slots_.push_back(std::make_unique<Slot>());
    for (auto& slot : slots_) next_chunk(*slot);
    while (busy_ > 0) loop_.run_once(-1);
    if (error_) return error_;
    bool done = false;
    target_.submit({.operation = Operation::kFlush, .buffers = {}, .done = [this, &done](int error) {
                      note(error, false);
                      done = true;
                    }});
    while (!done) loop_.run_once(-1);
    return error_;
  }
  bool reading_failed() const { return reading_failed_; }

 private:
  struct Slot {
    std::vector<std::byte> data = std::vector<std::byte>(kChunkBytes);
    uint64_t offset = 0, length = 0, written = 0;
  };

  void note(int error, bool reading) {
    if (!error || error_) return;
    error_ = error;
    reading_failed_ = reading;
  }

  void next_chunk(Slot& slot) {
    if (error_ || next_ == total_) return;
    // Whole chunks that are not there need not be read.
    const uint64_t found = source_.next_data(next_) / kChunkBytes * kChunkBytes;
    if (found > next_) {
      done_ += std::min(found, total_) - next_;
      next_ = std::min(found, total_);
      if (options_.on_progress) options_.on_progress(done_, total_);
      if (next_ == total_) return;
    }
    slot.offset = next_;
    slot.length = std::min(kChunkBytes, total_ - next_);
    slot.written = 0;
    next_ += slot.length;
    ++busy_;
    source_.submit({.operation = Operation::kRead,
                    .offset = slot.offset,
                    .length = slot.length,
                    .buffers = {{slot.data.data(), slot.length}},
                    // Later, not from within submit(): disks that answer at once would nest without bound.
                    .done = [this, &slot](int error) { loop_.post([this, &slot, error] { on_read(slot, error); }); }});
  }

  void on_read(Slot& slot, int error) {
    note(error, true);
    write_on(slot);
  }

  uint64_t grain(const Slot& slot, uint64_t at) const { return std::min(kGrainBytes, slot.length - at); }

  // Writes the next run of what is not zero; with none left the slot takes another chunk.
  void write_on(Slot& slot) {
    uint64_t& at = slot.written;
    while (!error_ && at < slot.length && all_zero(slot.data.data() + at, grain(slot, at))) at += grain(slot, at);
    if (error_ || at == slot.length) {
      --busy_;
      done_ += slot.length;
      if (options_.on_progress) options_.on_progress(done_, total_);
      next_chunk(slot);
      return;
    }
    const uint64_t start = at;
    while (at < slot.length && !all_zero(slot.data.data() + at, grain(slot, at))) at += grain(slot, at);
    if (options_.compress) {
      note(target_.write_compressed(slot.offset + start, std::span(slot.data).subspan(start, at - start)), false);
      loop_.post([this, &slot] { write_on(slot); });
      return;
    }
    target_.submit({.operation = Operation::kWrite,
                    .offset = slot.offset + start,
                    .length = at - start,
                    .buffers = {{slot.data.data() + start, at - start}},
                    .done = [this, &slot](int error) {
                      loop_.post([this, &slot, error] {
                        note(error, false);
                        write_on(slot);
                      });
                    }});
  }

  base::EventLoop& loop_;
  Disk &source_, &target_;
  const ConvertOptions& options_;
  const uint64_t total_;
  std::vector<std::unique_ptr<Slot>> slots_;
  uint64_t next_ = 0, done_ = 0;
  unsigned busy_ = 0;
  int error_ = 0;
  bool reading_failed_ = false;
};

}  // namespace

namespace {

// The copy grows under another name, so that whatever interrupts it leaves no file that looks whole. What an earlier
// one left is taken away, unless that one is still at work.
Status make_part(const std::string& part, const ConvertOptions& options, uint64_t size_bytes) {
  const CreateOptions create{.path = part, .format = options.target_format, .size_bytes = size_bytes};
  if (access(part.c_str(), F_OK) != 0) return create_image(create);
  const base::UniqueFd left = RHEA_TRY(open_image_file(part, O_RDWR));
  RHEA_TRY(lock_image(left.get(), true, part));
  unlink(part.c_str());
  return create_image(create);
}

// Like rename(), but never over a file.
Status rename_new(const std::string& from, const std::string& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return {};
  if (errno == EINVAL && access(to.c_str(), F_OK) != 0 && rename(from.c_str(), to.c_str()) == 0) return {};
  return fail(Error::from_errno(errno, fmt::format("cannot create {}", to)));
}

Status copy_to(const std::string& part, base::EventLoop& loop, Disk& source, const ConvertOptions& options) {
  auto target = RHEA_TRY(open_disk(loop, part, {.format = options.target_format}));
  if (options.compress && target->compressed_unit() != kGrainBytes)
    return fail(ErrorCode::kInvalidArgument, "only a qcow2 image can be compressed: say --target-format qcow2");
  Converter converter(loop, source, *target, options);
  const int error = converter.run();
  if (!error) return {};
  return fail(Error::from_errno(error, converter.reading_failed() ? fmt::format("reading {}", options.source)
                                                                  : fmt::format("writing {}", options.target)));
}

}  // namespace

Status convert_image(const ConvertOptions& options) {
  auto loop = RHEA_TRY(base::EventLoop::create());
  auto source = RHEA_TRY(
      open_disk(*loop, options.source,
                {.read_only = true, .format = options.source_format, .backing_anywhere = options.backing_anywhere}));
  if (access(options.target.c_str(), F_OK) == 0)
    return fail(Error::from_errno(EEXIST, fmt::format("cannot create {}", options.target)));
  const std::string part = options.target + ".part";
  RHEA_TRY(make_part(part, options, source->size_bytes()));
  Status done = copy_to(part, *loop, *source, options);
  if (done) done = rename_new(part, options.target);
  if (!done) unlink(part.c_str());
  return done;
}

}  // namespace rhea::block
