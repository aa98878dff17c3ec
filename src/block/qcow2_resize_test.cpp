// SPDX-License-Identifier: Apache-2.0
// Disks that grow and shrink, beside what QEMU makes of the same; and compressed images.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "block/convert.h"
#include "block/image_tools.h"
#include "testing/scratch_folder.h"

namespace rhea::block {
namespace {

class ResizeTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::system("qemu-img --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "qemu-img is not installed";
  }
  std::string at(const char* name) const { return scratch.at(name); }
  int shell(const std::string& command) const {
    return WEXITSTATUS(std::system(
        fmt::format("cd {} && ({}) >log 2>&1 || (cat log; false)", scratch.path().string(), command).c_str()));
  }
  // Makes the disk so long here and in a raw twin, where what is cut off is lost and what is new is zero.
  void resize(uint64_t bytes) {
    const Status status =
        resize_image({.path = at("disk.qcow2"), .format = "qcow2", .size_bytes = bytes, .shrink = true});
    ASSERT_TRUE(status) << status.error().to_string();
    ASSERT_EQ(shell(fmt::format("truncate -s {} twin.raw", bytes)), 0);
    ASSERT_EQ(inspect_image(at("disk.qcow2"), "qcow2")->disk_bytes, bytes);
    EXPECT_EQ(shell("qemu-img check -f qcow2 disk.qcow2"), 0) << bytes;
    const auto report = check_image(at("disk.qcow2"), {});
    EXPECT_TRUE(report && report->clean());
    EXPECT_EQ(shell("qemu-img compare -f qcow2 -F raw disk.qcow2 twin.raw"), 0) << bytes;
  }
  void write(int pattern, const char* offset, const char* length) {
    ASSERT_EQ(
        shell(fmt::format("qemu-io -f qcow2 -c 'write -P {0} {1} {2}' disk.qcow2 && qemu-io -f raw -c 'write -P {0} "
                          "{1} {2}' twin.raw",
                          pattern, offset, length)),
        0);
  }
  const testing::ScratchFolder scratch;
};

TEST_P(ResizeTest, GrowsAndShrinks) {
  // The backing file goes on behind the disk's end, where it must never come to light.
  ASSERT_EQ(shell("qemu-img create -f raw base.raw 9M && qemu-io -f raw -c 'write -P 5 0 9M' base.raw"), 0);
  const bool backed = std::string(GetParam()).find("backed") != std::string::npos;
  const std::string options = GetParam() + (backed ? 7 : 0);
  ASSERT_EQ(shell(fmt::format("qemu-img create -f qcow2 {} -o {} disk.qcow2 3072K", backed ? "-b base.raw -F raw" : "",
                              options)),
            0);
  ASSERT_EQ(shell("qemu-img convert -f qcow2 -O raw disk.qcow2 twin.raw"), 0);
  write(1, "1M", "100k");
  write(2, "3000k", "72k");
  resize((3u << 20) - 512);
  resize((4u << 20) + 1024);
  write(3, "4M", "1k");
  resize(40u << 20);
  write(4, "39M", "1M");
  resize((1u << 20) + 50 * 1024);
  resize(12u << 20);
  resize(options.find("cluster_size=512") == std::string::npos ? 600u << 20 : 20u << 20);
}

INSTANTIATE_TEST_SUITE_P(Flavours, ResizeTest,
                         ::testing::Values("compat=1.1", "compat=0.10", "cluster_size=512", "cluster_size=2M",
                                           "refcount_bits=1", "backed,compat=1.1", "backed,compat=0.10",
                                           "backed,cluster_size=4k"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           for (char& c : name)
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

using ResizeOneTest = ResizeTest;

TEST_F(ResizeOneTest, SmallerMustBeMeant) {
  ASSERT_TRUE(create_image({.path = at("disk.qcow2"), .size_bytes = 1 << 20}));
  const Status refused = resize_image({.path = at("disk.qcow2"), .format = "qcow2", .size_bytes = 4096});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().to_string(), ::testing::HasSubstr("--shrink"));
  EXPECT_FALSE(resize_image({.path = at("disk.qcow2"), .format = "qcow2", .size_bytes = 1000}));
}

TEST_F(ResizeOneTest, SnapshotsKeepTheirSize) {
  ASSERT_EQ(shell("qemu-img create -f qcow2 disk.qcow2 2M && qemu-io -f qcow2 -c 'write -P 6 0 2M' disk.qcow2 && "
                  "qemu-img convert -f qcow2 -O raw disk.qcow2 twin.raw && cp twin.raw then.raw && "
                  "qemu-img snapshot -c then disk.qcow2"),
            0);
  write(7, "1M", "300k");
  resize(1u << 20);
  resize(5u << 20);
  ASSERT_EQ(
      shell("qemu-img convert -f qcow2 -l then -O raw disk.qcow2 snapshot.raw && cmp -n 2097152 snapshot.raw then.raw"),
      0);
}

TEST_F(ResizeOneTest, CompressedImagesAreSmallAndTheSame) {
  // Text and noise, over an end that is no whole cluster.
  ASSERT_EQ(
      shell("(for i in $(seq 200000); do echo line $i; done; head -c 700000 /dev/urandom; seq 90000) >disk.raw && "
            "truncate -s 6144512 disk.raw"),
      0);
  ASSERT_TRUE(convert_image({.source = at("disk.raw"), .target = at("small.qcow2"), .compress = true}));
  EXPECT_EQ(shell("qemu-img check -f qcow2 small.qcow2"), 0);
  EXPECT_EQ(shell("qemu-img compare -f raw -F qcow2 disk.raw small.qcow2"), 0);
  EXPECT_LT(std::filesystem::file_size(at("small.qcow2")), 2u << 20);
  ASSERT_TRUE(convert_image(
      {.source = at("small.qcow2"), .source_format = "qcow2", .target = at("again.raw"), .target_format = "raw"}));
  EXPECT_EQ(shell("cmp disk.raw again.raw"), 0);
  const auto report = check_image(at("small.qcow2"), {});
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->clean());
  EXPECT_GT(report->compressed_clusters, 30u);
  EXPECT_FALSE(
      convert_image({.source = at("disk.raw"), .target = at("no.raw"), .target_format = "raw", .compress = true}));
}

}  // namespace
}  // namespace rhea::block
