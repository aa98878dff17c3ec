// SPDX-License-Identifier: Apache-2.0
// Qcow2 images against qemu-img: it makes them, we read and write them at random beside a plain copy, it checks them.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/endian.h"
#include "block/disk.h"
#include "block/qcow2_format.h"

namespace rhea::block {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

struct Flavour {
  friend void PrintTo(const Flavour& flavour, std::ostream* out) { *out << flavour.name; }
  const char* name;
  const char* options;    // of qemu-img create
  const char* backing;    // "", "raw", "qcow2", "compressed", "zstd"
  bool snapshot = false;  // an internal one, taken by qemu-img, that shares everything
};

class Qcow2Test : public ::testing::TestWithParam<Flavour> {
 protected:
  static constexpr uint64_t kBytes = 8 << 20;
  Qcow2Test() : loop(*base::EventLoop::create()) {
    // In memory where there is such a place: syncing is not what is tested.
    const fs::path place = access("/dev/shm", W_OK) == 0 ? fs::path("/dev/shm") : fs::temp_directory_path();
    folder = place / fmt::format("rhea-qcow2-{}-{}", getpid(), GetParam().name);
    fs::create_directories(folder);
    path = folder / "disk.qcow2";
  }
  ~Qcow2Test() override { fs::remove_all(folder); }
  void SetUp() override {
    if (std::system("qemu-img --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "qemu-img is not installed";
    make_image();
  }

  void qemu(const std::string& command) {
    ASSERT_EQ(std::system(
                  fmt::format("cd {} && qemu-img {} >log 2>&1 || (cat log; false)", folder.string(), command).c_str()),
              0)
        << command;
  }
  void make_image() {
    const Flavour& f = GetParam();
    twin.assign(kBytes, 0);
    const std::string backing = f.backing;
    std::string link;
    if (!backing.empty()) {
      // Half of it random, the rest holes, a little shorter than the disk.
      std::mt19937 random(3);
      const uint64_t bytes = kBytes - (1 << 20);
      for (uint64_t at = 0; at < bytes; ++at) twin[at] = at / 50000 % 2 ? static_cast<uint8_t>(random()) : 0;
      std::ofstream(folder / "base.raw", std::ios::binary)
          .write(reinterpret_cast<char*>(twin.data()), static_cast<std::streamsize>(bytes));
      if (backing != "raw")
        qemu(fmt::format("convert -f raw -O qcow2 {} base.raw base.qcow2", backing == "compressed" ? "-c"
                                                                           : backing == "zstd"
                                                                               ? "-c -o compression_type=zstd"
                                                                               : ""));
      link = backing == "raw" ? "-b base.raw -F raw" : "-b base.qcow2 -F qcow2";
    }
    qemu(fmt::format("create -f qcow2 {} {} disk.qcow2 {}", link, f.options, kBytes));
    if (f.snapshot) {
      std::ofstream(folder / "fill.raw", std::ios::binary) << std::string(kBytes, 'x');
      qemu(fmt::format("convert -f raw -O qcow2 {} fill.raw disk.qcow2", f.options));
      qemu("snapshot -c kept disk.qcow2");
      twin.assign(kBytes, 'x');
    }
  }

  void open() {
    auto opened = open_disk(*loop, path, {.format = "qcow2"});
    ASSERT_TRUE(opened) << opened.error().message();
    disk = std::move(*opened);
  }
  int run(Request request) {
    int result = -1;
    request.done = [&](int error) { result = error; };
    disk->submit(std::move(request));
    for (int i = 0; result < 0 && i < 2000; ++i) loop->run_once(100);
    return result;
  }
  void compare() {
    std::vector<uint8_t> back(kBytes);
    ASSERT_EQ(run({.operation = Operation::kRead, .offset = 0, .length = kBytes, .buffers = {{back.data(), kBytes}}}),
              0);
    ASSERT_TRUE(back == twin);
  }

  // Several requests at once, some over the same clusters (but never the same sectors: their order would be open).
  void exercise(std::mt19937& random, int rounds) {
    for (int round = 0; round < rounds; ++round) {
      const unsigned parallel = 1 + random() % 6;
      const uint64_t slot = kBytes / parallel & ~uint64_t{511};
      std::vector<std::vector<uint8_t>> data(parallel);
      unsigned left = 0;
      for (unsigned i = 0; i < parallel; ++i) {
        const uint64_t reach = random() % 4 ? 64 << 10 : slot;
        const uint64_t from = parallel > 1 && random() % 2 ? i * slot : i * slot + (random() % slot & ~uint64_t{511});
        uint64_t length = ((random() % reach) & ~uint64_t{511}) + 512;
        length = std::min(length, (i + 1) * slot - from);
        if (length == 0) continue;
        data[i].resize(length);
        Request r{.offset = from, .length = length};
        const unsigned kind = random() % 16;
        if (kind < 9) {
          for (auto& byte : data[i]) byte = static_cast<uint8_t>(random());
          std::copy(data[i].begin(), data[i].end(), twin.begin() + static_cast<ptrdiff_t>(from));
          r.operation = Operation::kWrite;
          const size_t cut = random() % length;  // in two pieces
          r.buffers = {{data[i].data(), cut}, {data[i].data() + cut, length - cut}};
        } else if (kind < 11) {
          std::fill_n(twin.begin() + static_cast<ptrdiff_t>(from), length, 0);
          r.operation = Operation::kWriteZeroes;
          r.may_unmap = kind == 9;
        } else if (kind == 11) {
          r = {.operation = Operation::kFlush};
        } else {
          r.operation = Operation::kRead;
          r.buffers = {{data[i].data(), length}};
        }
        ++left;
        const bool check = r.operation == Operation::kRead;
        r.done = [&, i, from, length, check](int error) {
          EXPECT_EQ(error, 0);
          --left;
          if (check)
            EXPECT_TRUE(std::equal(data[i].begin(), data[i].end(), twin.begin() + static_cast<ptrdiff_t>(from)))
                << from << "+" << length;
        };
        disk->submit(std::move(r));
      }
      for (int i = 0; left && i < 2000; ++i) loop->run_once(100);
      ASSERT_EQ(left, 0u);
    }
  }

  void check_with_qemu() {
    qemu("check -f qcow2 disk.qcow2");  // fails for leaks, too
    qemu("convert -f qcow2 -O raw disk.qcow2 out.raw");
    std::vector<uint8_t> back(kBytes);
    std::ifstream(folder / "out.raw", std::ios::binary).read(reinterpret_cast<char*>(back.data()), kBytes);
    EXPECT_TRUE(back == twin);
  }

  std::unique_ptr<base::EventLoop> loop;
  fs::path folder, path;
  std::unique_ptr<Disk> disk;
  std::vector<uint8_t> twin;
};

TEST_P(Qcow2Test, AgreesWithQemu) {
  std::mt19937 random(11);
  for (int session = 0; session < 3; ++session) {
    open();
    compare();
    exercise(random, 40);
    compare();
    disk.reset();
    check_with_qemu();
  }
  if (!GetParam().snapshot) return;
  qemu("snapshot -a kept disk.qcow2");  // what it held is still there
  twin.assign(kBytes, 'x');
  check_with_qemu();
}

TEST_P(Qcow2Test, ACrashAfterAFlushLosesNothingOfIt) {
  std::mt19937 random(5);
  open();
  exercise(random, 30);
  ASSERT_EQ(run({.operation = Operation::kFlush}), 0);
  fs::copy_file(path, folder / "crashed.qcow2");  // as it is while still open, its tables of after the flush unwritten
  const std::vector<uint8_t> flushed = twin;
  disk.reset();
  fs::rename(folder / "crashed.qcow2", path);
  twin = flushed;
  // Reserved clusters may leak; nothing may be wrong.
  const int status =
      std::system(fmt::format("cd {} && qemu-img check -f qcow2 disk.qcow2 >log 2>&1", folder.string()).c_str());
  EXPECT_TRUE(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3) << WEXITSTATUS(status);
  qemu("convert -f qcow2 -O raw disk.qcow2 out.raw");
  std::vector<uint8_t> back(kBytes);
  std::ifstream(folder / "out.raw", std::ios::binary).read(reinterpret_cast<char*>(back.data()), kBytes);
  EXPECT_TRUE(back == twin);
}

INSTANTIATE_TEST_SUITE_P(Flavours, Qcow2Test,
                         ::testing::Values(Flavour{"plain", "", ""}, Flavour{"version2", "-o compat=0.10", ""},
                                           Flavour{"tiny_clusters", "-o cluster_size=512", ""},
                                           Flavour{"huge_clusters", "-o cluster_size=2M", ""},
                                           Flavour{"one_bit_counts", "-o refcount_bits=1", ""},
                                           Flavour{"wide_counts", "-o refcount_bits=64,cluster_size=4k", ""},
                                           Flavour{"lazy", "-o lazy_refcounts=on", ""}, Flavour{"over_raw", "", "raw"},
                                           Flavour{"over_raw_version2", "-o compat=0.10,cluster_size=4k", "raw"},
                                           Flavour{"over_qcow2", "-o cluster_size=16k", "qcow2"},
                                           Flavour{"over_compressed", "", "compressed"},
                                           Flavour{"over_zstd", "", "zstd"}, Flavour{"with_snapshot", "", "", true},
                                           Flavour{"with_snapshot_small", "-o cluster_size=1k", "", true}),
                         [](const auto& flavour) { return flavour.param.name; });

TEST(Qcow2Header, RefusesByName) {
  std::vector<std::byte> good(512);
  base::store_be<uint32_t>(&good[0], qcow2::kMagic);
  base::store_be<uint32_t>(&good[4], 3);
  base::store_be<uint32_t>(&good[20], 16);
  base::store_be<uint64_t>(&good[24], 1 << 30);
  base::store_be<uint32_t>(&good[36], 2);
  base::store_be<uint64_t>(&good[40], 0x30000);
  base::store_be<uint64_t>(&good[48], 0x10000);
  base::store_be<uint32_t>(&good[56], 1);
  base::store_be<uint32_t>(&good[96], 4);
  base::store_be<uint32_t>(&good[100], 104);
  ASSERT_TRUE(qcow2::parse_header(good));
  const auto with = [&](size_t at, uint32_t value) {
    auto bytes = good;
    base::store_be<uint32_t>(&bytes[at], value);
    auto header = qcow2::parse_header(bytes);
    return header ? std::string("accepted") : header.error().message();
  };
  EXPECT_THAT(with(0, 1), HasSubstr("not a qcow2 image"));
  EXPECT_THAT(with(4, 4), HasSubstr("version 4"));
  EXPECT_THAT(with(20, 31), HasSubstr("cluster size"));
  EXPECT_THAT(with(24, 0xffffffff), HasSubstr("larger than any"));
  EXPECT_THAT(with(32, 2), HasSubstr("LUKS"));
  EXPECT_THAT(with(36, 1), HasSubstr("first-level table"));
  EXPECT_THAT(with(36, 0xffffffff), HasSubstr("first-level table"));
  EXPECT_THAT(with(44, 0x30001), HasSubstr("misplaced"));
  EXPECT_THAT(with(56, 0xffffff), HasSubstr("impossible size"));
  EXPECT_THAT(with(76, 4), HasSubstr("external data file"));
  EXPECT_THAT(with(76, 16), HasSubstr("extended L2"));
  EXPECT_THAT(with(76, 32), HasSubstr("0x20"));
  EXPECT_THAT(with(96, 7), HasSubstr("reference counts"));
  EXPECT_THAT(with(100, 5000), HasSubstr("length of the header"));
}

}  // namespace
}  // namespace rhea::block
