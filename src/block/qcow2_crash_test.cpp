// SPDX-License-Identifier: Apache-2.0
// Crashes at every moment: what a disk writes to its file is recorded, and images are put together as a crash could
// have left them: all that was made to last, and any part of the rest. None may be corrupt, and each sector must hold
// what it held at the last flush or something written since.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <random>

#include "base/endian.h"
#include "base/event_loop.h"
#include "block/disk.h"
#include "block/forwarding_file_test.h"
#include "block/layer.h"
#include "testing/scratch_folder.h"

namespace rhea::block {
namespace {

constexpr uint64_t kSector = 512, kBlock = 4096, kDiskBytes = 4 << 20;

// What reached the file, in order. A data write lasts from a sync on that began when it had ended.
class Recorder final : public WriteLog {
 public:
  struct Event {
    enum class Kind : uint8_t { kWrite, kEnd, kSync } kind;
    size_t write = 0;  // kWrite, kEnd: which
  };
  struct Write {
    uint64_t offset;
    std::vector<std::byte> data;
  };
  size_t begin(uint64_t offset, std::vector<std::byte> data) {
    writes.push_back({offset, std::move(data)});
    events.push_back({Event::Kind::kWrite, writes.size() - 1});
    return writes.size() - 1;
  }
  void end(size_t write) { events.push_back({Event::Kind::kEnd, write}); }
  void on_write(uint64_t offset, std::span<const std::byte> data) override {
    end(begin(offset, {data.begin(), data.end()}));
  }
  void on_sync() override { events.push_back({Event::Kind::kSync}); }

  std::vector<Event> events;
  std::vector<Write> writes;
};

class RecordedFile final : public ForwardingFile {
 public:
  RecordedFile(std::unique_ptr<AsyncFile> file, Recorder& recorder)
      : ForwardingFile(std::move(file)), recorder_(recorder) {}
  void write(uint64_t offset, std::vector<iovec> buffers, Done done) override {
    std::vector<std::byte> data;
    for (const iovec& piece : buffers) {
      const auto* bytes = static_cast<const std::byte*>(piece.iov_base);
      data.insert(data.end(), bytes, bytes + piece.iov_len);
    }
    const size_t write = recorder_.begin(offset, std::move(data));
    file_->write(offset, std::move(buffers), [this, write, done = std::move(done)](int error) {
      recorder_.end(write);
      done(error);
    });
  }

 private:
  Recorder& recorder_;
};

// What the guest did to one block of its disk, by moments of the recording.
struct Version {
  uint64_t stamp = 0;  // in every sector; 0: zeros
  size_t submitted = 0, ended = 0;
  bool hint = false;  // a discard, which may leave what was there
};

struct CrashFlavour {
  friend void PrintTo(const CrashFlavour& flavour, std::ostream* out) { *out << flavour.name; }
  const char* name;
  const char* options;  // of qemu-img create
  bool backing = false, snapshot = false;
};

class CrashTest : public ::testing::TestWithParam<CrashFlavour> {
 protected:
  void SetUp() override {
    if (std::system("qemu-img --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "qemu-img is not installed";
    const CrashFlavour& f = GetParam();
    if (f.backing) qemu("create -f qcow2 base.qcow2 4M");
    if (f.backing)
      ASSERT_EQ(
          std::system(
              fmt::format("qemu-io -f qcow2 -c 'write -P 0 0 4M' {} >/dev/null", folder_.at("base.qcow2")).c_str()),
          0);
    qemu(fmt::format("create -f qcow2 {} {} disk.qcow2 {}", f.backing ? "-b base.qcow2 -F qcow2" : "", f.options,
                     kDiskBytes));
    if (f.snapshot) qemu("snapshot -c kept disk.qcow2");
    initial_ = contents(folder_.at("disk.qcow2"));
  }
  void qemu(const std::string& command) {
    ASSERT_EQ(std::system(fmt::format("cd {} && qemu-img {} >/dev/null", folder_.path().string(), command).c_str()), 0)
        << command;
  }
  static std::vector<std::byte> contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    const auto* first = reinterpret_cast<const std::byte*>(bytes.data());
    return {first, first + bytes.size()};
  }

  void use_disk(std::mt19937& random, unsigned rounds);
  void one_round(Disk& disk, std::mt19937& random);

  std::vector<std::byte> image_at(size_t moment, std::mt19937& random) const;
  void check_image(const std::vector<std::byte>& image, size_t moment);
  bool allowed(uint64_t block, uint64_t stamp, size_t moment) const;

  rhea::testing::ScratchFolder folder_;
  std::unique_ptr<base::EventLoop> loop_ = std::move(*base::EventLoop::create());
  std::vector<std::byte> initial_;
  Recorder recorder_;
  std::vector<std::pair<size_t, size_t>> flushes_;  // began, ended
  std::map<uint64_t, std::vector<Version>> versions_;
  uint64_t next_stamp_ = 1;
};

// Several requests at once, on blocks of their own; now and then a flush among them.
void CrashTest::one_round(Disk& disk, std::mt19937& random) {
  struct Pending {
    std::vector<uint64_t> data;
    bool done = false;
  };
  const unsigned parallel = 1 + random() % 5;
  std::vector<std::unique_ptr<Pending>> pending;
  const uint64_t slots = kDiskBytes / kBlock / parallel;
  for (unsigned i = 0; i < parallel; ++i) {
    const uint64_t blocks = random() % 4 ? 1 + random() % 3 : 1 + random() % 40;
    const uint64_t first = i * slots + random() % (slots - std::min(blocks, slots - 1));
    const uint64_t count = std::min(blocks, (i + 1) * slots - first);
    auto& mine = *pending.emplace_back(std::make_unique<Pending>());
    const unsigned kind = random() % 10;
    const Operation operation = kind < 7 ? Operation::kWrite : kind < 9 ? Operation::kWriteZeroes : Operation::kDiscard;
    const uint64_t stamp = operation == Operation::kWrite ? next_stamp_++ : 0;
    mine.data.assign(count * kBlock / 8, stamp);
    const size_t submitted = recorder_.events.size();
    for (uint64_t b = first; b < first + count; ++b)
      versions_[b].push_back(
          {.stamp = stamp, .submitted = submitted, .ended = SIZE_MAX, .hint = operation == Operation::kDiscard});
    disk.submit({.operation = operation,
                 .offset = first * kBlock,
                 .length = count * kBlock,
                 .buffers = {{mine.data.data(), count * kBlock}},
                 .may_unmap = random() % 2 != 0,
                 .done = [this, &mine, first, count](int error) {
                   EXPECT_EQ(error, 0);
                   for (uint64_t b = first; b < first + count; ++b) versions_[b].back().ended = recorder_.events.size();
                   mine.done = true;
                 }});
  }
  if (random() % 3 == 0) {
    auto& mine = *pending.emplace_back(std::make_unique<Pending>());
    const size_t began = recorder_.events.size();
    disk.submit({.operation = Operation::kFlush, .done = [this, &mine, began](int error) {
                   EXPECT_EQ(error, 0);
                   flushes_.emplace_back(began, recorder_.events.size());
                   mine.done = true;
                 }});
  }
  const auto all_done = [&] { return std::ranges::all_of(pending, [](const auto& p) { return p->done; }); };
  for (int i = 0; !all_done() && i < 2000; ++i) loop_->run_once(100);
  ASSERT_TRUE(all_done());
}

void CrashTest::use_disk(std::mt19937& random, unsigned rounds) {
  auto opened = open_disk(
      *loop_, folder_.at("disk.qcow2"),
      {.format = "qcow2",
       .wrap_file = [this, first = true](std::unique_ptr<AsyncFile> file) mutable -> std::unique_ptr<AsyncFile> {
         // The backing file, opened first, is only read.
         if (GetParam().backing && std::exchange(first, false)) return file;
         return std::make_unique<RecordedFile>(std::move(file), recorder_);
       },
       .table_log = &recorder_});
  ASSERT_TRUE(opened) << opened.error().message();
  for (unsigned i = 0; i < rounds; ++i) one_round(**opened, random);
}

// The file as a crash after the first `moment` events could have left it: sectors reach the medium one by one.
std::vector<std::byte> CrashTest::image_at(size_t moment, std::mt19937& random) const {
  std::vector<size_t> lasts(recorder_.writes.size(), 0);  // 1: ended, 2: made to last
  for (size_t i = 0; i < moment; ++i) {
    const Recorder::Event& event = recorder_.events[i];
    if (event.kind == Recorder::Event::Kind::kEnd) lasts[event.write] = 1;
    if (event.kind == Recorder::Event::Kind::kSync)
      for (size_t& state : lasts) state = state ? 2 : 0;
  }
  std::vector<std::byte> image = initial_;
  const unsigned chance = random() % 5;  // of each sector, in quarters
  for (size_t i = 0; i < moment; ++i) {
    const Recorder::Event& event = recorder_.events[i];
    if (event.kind != Recorder::Event::Kind::kWrite) continue;
    const Recorder::Write& write = recorder_.writes[event.write];
    const bool whole = random() % 2 != 0, taken = random() % 4 < chance;
    for (size_t at = 0; at < write.data.size();) {
      const size_t size = std::min(write.data.size() - at, kSector - (write.offset + at) % kSector);
      if (lasts[event.write] == 2 || (whole ? taken : random() % 4 < chance)) {
        if (image.size() < write.offset + at + size) image.resize(write.offset + at + size);
        std::copy_n(write.data.begin() + static_cast<long>(at), size,
                    image.begin() + static_cast<long>(write.offset + at));
      }
      at += size;
    }
  }
  return image;
}

bool CrashTest::allowed(uint64_t block, uint64_t stamp, size_t moment) const {
  const auto found = versions_.find(block);
  if (found == versions_.end()) return stamp == 0;
  const std::vector<Version>& versions = found->second;
  size_t flushed = 0;  // what began before this, and had ended, lasts
  for (const auto& [began, ended] : flushes_)
    if (ended <= moment) flushed = std::max(flushed, began);
  size_t oldest = 0;  // index + 1 of the version that is sure to have arrived
  for (size_t i = 0; i < versions.size(); ++i)
    if (versions[i].ended <= flushed && !versions[i].hint) oldest = i + 1;
  if (oldest == 0 && stamp == 0) return true;
  for (size_t i = oldest ? oldest - 1 : 0; i < versions.size() && versions[i].submitted <= moment; ++i)
    if (versions[i].stamp == stamp) return true;
  return false;
}

void CrashTest::check_image(const std::vector<std::byte>& image, size_t moment) {
  const std::string path = folder_.at("crashed.qcow2");
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(image.data()), static_cast<std::streamsize>(image.size()));
  const int status = std::system(fmt::format("qemu-img check {} >{} 2>&1", path, folder_.at("log")).c_str());
  constexpr int kClean = 0, kLeaks = 3;
  ASSERT_TRUE(WEXITSTATUS(status) == kClean || WEXITSTATUS(status) == kLeaks)
      << "after event " << moment << "\n"
      << std::ifstream(folder_.at("log")).rdbuf();
  auto opened = open_disk(*loop_, path, {.read_only = true, .format = "qcow2"});
  ASSERT_TRUE(opened) << opened.error().message();
  std::vector<uint64_t> back(kDiskBytes / 8);
  int result = -1;
  (*opened)->submit({.operation = Operation::kRead,
                     .offset = 0,
                     .length = kDiskBytes,
                     .buffers = {{back.data(), kDiskBytes}},
                     .done = [&](int error) { result = error; }});
  for (int i = 0; result < 0 && i < 2000; ++i) loop_->run_once(100);
  ASSERT_EQ(result, 0);
  for (uint64_t sector = 0; sector < kDiskBytes / kSector; ++sector) {
    const uint64_t stamp = back[sector * kSector / 8];
    for (uint64_t i = 0; i < kSector / 8; ++i) ASSERT_EQ(back[sector * kSector / 8 + i], stamp) << "sector " << sector;
    ASSERT_TRUE(allowed(sector * kSector / kBlock, stamp, moment))
        << "sector " << sector << " holds " << stamp << " after event " << moment;
  }
}

TEST_P(CrashTest, NoMomentLeavesACorruptImageOrLosesWhatWasFlushed) {
  const bool full = std::getenv("RHEA_TEST_LONG") != nullptr;
  std::mt19937 random(static_cast<unsigned>(std::hash<std::string_view>{}(GetParam().name)));
  use_disk(random, full ? 120 : 40);
  ASSERT_FALSE(HasFailure());
  const size_t events = recorder_.events.size();
  // Every moment just before and after a sync, thinned out to what there is time for; and moments at random.
  std::vector<size_t> moments;
  for (size_t i = 0; i < events; ++i)
    if (recorder_.events[i].kind == Recorder::Event::Kind::kSync) moments.insert(moments.end(), {i, i + 1});
  for (size_t i = 0; i < moments.size(); ++i) std::swap(moments[i], moments[random() % moments.size()]);
  const size_t wanted = full ? 500 : 30;
  if (moments.size() > wanted * 2 / 3) moments.resize(wanted * 2 / 3);
  while (moments.size() < wanted) moments.push_back(random() % (events + 1));
  for (const size_t moment : moments) {
    check_image(image_at(moment, random), moment);
    if (HasFatalFailure()) return;
  }
}

constexpr CrashFlavour kFlavours[] = {
    {"Small", "-o cluster_size=4k"},
    {"SmallCounts", "-o cluster_size=512,refcount_bits=64"},
    {"Default", ""},
    {"Old", "-o compat=0.10,cluster_size=4k"},
    {"Backing", "-o cluster_size=8k", true},
    {"OneBitCounts", "-o cluster_size=4k,refcount_bits=1"},
    {"Shared", "-o cluster_size=4k", false, true},
};
INSTANTIATE_TEST_SUITE_P(Images, CrashTest, ::testing::ValuesIn(kFlavours),
                         [](const auto& flavour) { return std::string(flavour.param.name); });

}  // namespace
}  // namespace rhea::block
