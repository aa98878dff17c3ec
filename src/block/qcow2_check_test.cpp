// SPDX-License-Identifier: Apache-2.0
// Our check beside qemu-img's: on whole images, on images that QEMU left unclosed, and on damaged ones.
#include "block/qcow2_check.h"

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
#include "base/event_loop.h"
#include "base/fd.h"
#include "block/disk.h"
#include "block/image_tools.h"
#include "block/layer.h"
#include "testing/scratch_folder.h"

namespace rhea::block {
namespace {

class CheckTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::system("qemu-img --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "qemu-img is not installed";
  }
  std::string at(const char* name) const { return scratch.at(name); }
  int shell(const std::string& command) const {
    return WEXITSTATUS(std::system(fmt::format("cd {} && {} >log 2>&1", scratch.path().string(), command).c_str()));
  }
  // Half full, some of it compressed, with a snapshot whose clusters are partly shared.
  void make(const std::string& options) {
    ASSERT_EQ(shell(fmt::format("qemu-img create -f qcow2 -o {} disk.qcow2 16M", options)), 0);
    // Compressed clusters share a cluster of the file, and so each of them counts.
    const bool whole = options.find("preallocation") == std::string::npos;
    ASSERT_EQ(shell(fmt::format(
                  "qemu-io -f qcow2 -c 'write -P 7 1M 3M' -c 'write {} -P 9 8M 2M' -c 'write -z 5M 1M' disk.qcow2",
                  whole ? "-c" : "")),
              0);
    compressed = whole;
    const bool narrow =
        options.find("bits=1,") != std::string::npos || options.ends_with("bits=2") || options.ends_with("bits=4");
    if (narrow) return;  // counts with no room for a snapshot's
    ASSERT_EQ(shell("qemu-img snapshot -c one disk.qcow2"), 0);
    ASSERT_EQ(shell("qemu-io -f qcow2 -c 'write -P 8 2M 3M' disk.qcow2"), 0);
  }
  qcow2::CheckReport check(bool repair) {
    auto report = check_image(at("disk.qcow2"), {.repair = repair});
    EXPECT_TRUE(report) << report.error().message();
    return report ? *report : qcow2::CheckReport{};
  }
  qcow2::Header header() {
    const base::UniqueFd fd = *open_image_file(at("disk.qcow2"), O_RDONLY);
    std::vector<std::byte> head(size_t{1} << 16);
    EXPECT_EQ(read_fully(fd.get(), 0, head), 0);
    return *qcow2::parse_header(head);
  }
  uint64_t u64_at(uint64_t place) {
    const base::UniqueFd fd = *open_image_file(at("disk.qcow2"), O_RDONLY);
    std::byte raw[8];
    EXPECT_EQ(read_fully(fd.get(), place, raw), 0);
    return base::load_be<uint64_t>(raw);
  }
  void poke(uint64_t place, std::initializer_list<unsigned> bytes) {
    const base::UniqueFd fd = *open_image_file(at("disk.qcow2"), O_RDWR);
    std::vector<std::byte> raw;
    for (const unsigned byte : bytes) raw.push_back(static_cast<std::byte>(byte));
    ASSERT_EQ(write_fully(fd.get(), place, raw), 0);
  }
  const testing::ScratchFolder scratch;
  bool compressed = false;
};

TEST_P(CheckTest, WholeImagesAreWhole) {
  make(GetParam());
  const auto report = check(false);
  EXPECT_TRUE(report.clean()) << ::testing::PrintToString(report.findings);
  EXPECT_EQ(report.compressed_clusters != 0, compressed);
}

// All counts gone and made anew: QEMU finds nothing to say, and every byte is there.
TEST_P(CheckTest, CountsAreMadeAnew) {
  make(GetParam());
  ASSERT_EQ(shell("qemu-img convert -f qcow2 -O raw disk.qcow2 before.raw"), 0);
  const qcow2::Header head = header();
  const uint64_t block = u64_at(head.refcount_table_offset);
  ASSERT_NE(block, 0u);
  const base::UniqueFd fd = *open_image_file(at("disk.qcow2"), O_RDWR);
  ASSERT_EQ(write_fully(fd.get(), block, std::vector<std::byte>(head.cluster_bytes())), 0);
  const auto found = check(false);
  EXPECT_GT(found.miscounted, 0u);
  EXPECT_FALSE(found.repaired);
  EXPECT_TRUE(check(true).repaired);
  EXPECT_TRUE(check(false).clean());
  EXPECT_EQ(shell("qemu-img check -f qcow2 disk.qcow2"), 0);
  EXPECT_EQ(shell("qemu-img compare -f qcow2 -F raw disk.qcow2 before.raw"), 0);
}

INSTANTIATE_TEST_SUITE_P(Flavours, CheckTest,
                         ::testing::Values("compat=1.1", "compat=0.10", "cluster_size=512", "cluster_size=2M",
                                           "refcount_bits=1,compat=1.1", "refcount_bits=2", "refcount_bits=4",
                                           "refcount_bits=8", "refcount_bits=32", "refcount_bits=64",
                                           "compression_type=zstd", "lazy_refcounts=on", "preallocation=metadata",
                                           "preallocation=full"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           for (char& c : name)
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

using CheckOneTest = CheckTest;

// QEMU ended by a signal while it kept the counts lazily: the next one to write makes them anew, as here.
TEST_F(CheckOneTest, AnImageThatWasNotClosedIsRepairedOnOpening) {
  ASSERT_EQ(shell("qemu-img create -f qcow2 -o lazy_refcounts=on disk.qcow2 64M"), 0);
  ASSERT_NE(shell("qemu-io -f qcow2 -c 'write -P 7 1M 30M' -c flush -c 'sigraise 9' disk.qcow2"), 0);
  ASSERT_TRUE(header().incompatible & qcow2::kDirty);
  ASSERT_TRUE(check(false).dirty);
  ASSERT_EQ(shell("cp disk.qcow2 other.qcow2 && qemu-img check -r all -f qcow2 other.qcow2"), 0);
  auto loop = *base::EventLoop::create();
  {
    auto opened = open_disk(*loop, at("disk.qcow2"), {.format = "qcow2"});
    ASSERT_TRUE(opened) << opened.error().message();
  }
  EXPECT_FALSE(header().incompatible & qcow2::kDirty);
  EXPECT_TRUE(check(false).clean());
  EXPECT_EQ(shell("qemu-img check -f qcow2 disk.qcow2"), 0);
  EXPECT_EQ(shell("qemu-img compare -f qcow2 -F qcow2 disk.qcow2 other.qcow2"), 0);
}

TEST_F(CheckOneTest, BitmapsOfAnotherProgramAreInUse) {
  make("compat=1.1");
  ASSERT_EQ(shell("qemu-img bitmap --add --enable -f qcow2 disk.qcow2 changes"), 0);
  ASSERT_EQ(shell("qemu-io -f qcow2 -c 'write -P 3 12M 2M' disk.qcow2"), 0);
  EXPECT_TRUE(check(false).clean());
}

TEST_F(CheckOneTest, LeaksAreFoundAndMended) {
  make("compat=1.1");
  const qcow2::Header head = header();
  const uint64_t block = u64_at(head.refcount_table_offset);
  poke(block + 2 * 200, {0, 1});
  const auto report = check(true);
  EXPECT_EQ(report.leaks, 1u);
  EXPECT_EQ(report.miscounted + report.corruptions, 0u);
  EXPECT_TRUE(report.repaired);
  EXPECT_TRUE(check(false).clean());
  EXPECT_EQ(shell("qemu-img check -f qcow2 disk.qcow2"), 0);
}

TEST_F(CheckOneTest, WhatPointsNowhereIsNotMended) {
  make("compat=1.1");
  const qcow2::Header head = header();
  poke(head.l1_offset, {0, 0, 0x7f, 0, 0, 0, 0, 0});
  const auto report = check(true);
  EXPECT_GT(report.corruptions, 0u);
  EXPECT_FALSE(report.repaired);
  EXPECT_THAT(report.findings.front(), ::testing::HasSubstr("beyond the file's end"));
  EXPECT_NE(shell("qemu-img check -f qcow2 disk.qcow2"), 0);
}

// What reading or writing comes upon marks the image, and ends writing to it.
TEST_F(CheckOneTest, AnImageFoundCorruptIsMarked) {
  make("compat=1.1");
  const uint64_t table = u64_at(header().l1_offset) & qcow2::kOffsetMask;
  poke(table + 8 * 40 + 6, {2});  // not the start of a cluster
  auto loop = *base::EventLoop::create();
  std::vector<std::byte> bytes(512);
  const auto open = [&] { return open_disk(*loop, at("disk.qcow2"), {.format = "qcow2"}); };
  {
    auto disk = *open();
    const auto run = [&](Operation operation, uint64_t offset) {
      int result = -1;
      disk->submit({.operation = operation,
                    .offset = offset,
                    .length = bytes.size(),
                    .buffers = {{bytes.data(), bytes.size()}},
                    .done = [&](int error) { result = error; }});
      while (result < 0) loop->run_once(100);
      return result;
    };
    EXPECT_EQ(run(Operation::kWrite, 1 << 20), 0);
    EXPECT_EQ(run(Operation::kRead, uint64_t{40} << 16), EIO);
    EXPECT_EQ(run(Operation::kRead, 1 << 20), 0);
    EXPECT_EQ(run(Operation::kWrite, 1 << 20), EIO);
    EXPECT_EQ(run(Operation::kWrite, 12 << 20), EIO);
    EXPECT_EQ(run(Operation::kDiscard, 1 << 20), 0);  // less than a cluster: nothing to do
  }
  EXPECT_TRUE(header().incompatible & qcow2::kCorrupt);
  const auto again = open();
  ASSERT_FALSE(again);
  EXPECT_THAT(again.error().to_string(), ::testing::HasSubstr("marked corrupt"));
}

// Bytes changed at random in the tables: where QEMU sees harm so do we, and what we mended it finds in order.
TEST_F(CheckOneTest, DamageAtRandomIsJudgedAsQemuDoes) {
  make("compat=1.1");
  ASSERT_EQ(shell("cp disk.qcow2 good.qcow2"), 0);
  const qcow2::Header head = header();
  const uint64_t places[] = {u64_at(head.refcount_table_offset), head.l1_offset,
                             u64_at(head.l1_offset) & qcow2::kOffsetMask};
  std::mt19937 random(11);
  for (int round = 0; round < 40; ++round) {
    ASSERT_EQ(shell("cp good.qcow2 disk.qcow2"), 0);
    const uint64_t place = places[random() % 3];
    poke(place + random() % (place == head.l1_offset ? 8 : 600), {static_cast<unsigned>(random() % 256)});
    const int qemu = shell("qemu-img check -f qcow2 disk.qcow2");  // 0: clean, 2: corrupt, 3: leaks
    const auto report = check(false);
    SCOPED_TRACE(::testing::PrintToString(report.findings));
    // A count that is too high beside a mark that says "unshared" is corruption to QEMU, and lost space here; and QEMU
    // looks for no lost space behind the file's end.
    if (qemu != 0) EXPECT_FALSE(report.clean()) << round << ": " << qemu;
    if (report.miscounted + report.corruptions != 0) EXPECT_EQ(qemu, 2) << round;
    if (report.clean() || !check(true).repaired) continue;
    EXPECT_EQ(shell("qemu-img check -f qcow2 disk.qcow2"), 0) << round;
  }
}

// A small image must not make us walk and remember one table thousands of times.
TEST(CheckBounds, OneTableInManyPlacesIsWalkedOnce) {
  const testing::ScratchFolder scratch;
  const std::string path = scratch.at("disk.qcow2");
  constexpr uint64_t kTables = 2048;
  ASSERT_TRUE(create_image({.path = path, .size_bytes = kTables << 29}));  // 512 MiB to a table
  const base::UniqueFd fd = *open_image_file(path, O_RDWR);
  std::vector<std::byte> head(size_t{1} << 16);
  ASSERT_EQ(read_fully(fd.get(), 0, head), 0);
  const auto header = qcow2::parse_header(head);
  ASSERT_TRUE(header);
  ASSERT_EQ(header->l1_entries, kTables);
  const uint64_t table = (*size_of_image_file(fd.get(), path) + 65535) / 65536 * 65536;
  std::vector<std::byte> entries(65536), l1(kTables * 8);
  for (size_t at = 0; at < entries.size(); at += 8) base::store_be<uint64_t>(&entries[at], table | uint64_t{1} << 63);
  for (size_t at = 0; at < l1.size(); at += 8) base::store_be<uint64_t>(&l1[at], table | uint64_t{1} << 63);
  ASSERT_EQ(write_fully(fd.get(), table, entries), 0);
  ASSERT_EQ(write_fully(fd.get(), header->l1_offset, l1), 0);
  const auto report = qcow2::check_image_file(fd.get(), *header, {});
  ASSERT_TRUE(report);
  EXPECT_EQ(report->clusters, entries.size() / 8);  // of the one walk
  EXPECT_GE(report->corruptions, kTables - 1);
}

}  // namespace
}  // namespace rhea::block
