// SPDX-License-Identifier: Apache-2.0
// Converted images, judged by qemu-img.
#include "block/convert.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/event_loop.h"
#include "block/disk.h"
#include "block/image_tools.h"
#include "testing/scratch_folder.h"

namespace rhea::block {
namespace {

using ::testing::HasSubstr;

class ConvertTest : public ::testing::Test {
 protected:
  std::string at(const char* name) const { return scratch.at(name); }
  static bool have_qemu() { return std::system("qemu-img --version >/dev/null 2>&1") == 0; }
  static int shell(const std::string& command) { return std::system((command + " >/dev/null").c_str()); }

  // Holes, zeros, data, a piece at the very end; a size that no unit divides.
  std::string sparse_raw(const char* name, uint64_t bytes) {
    const std::string path = at(name);
    std::ofstream file(path, std::ios::binary);
    std::mt19937_64 random(bytes);
    for (int i = 0; i < 40; ++i) {
      std::string data(1 + random() % 100000, '\0');
      if (i % 3)
        for (char& c : data) c = static_cast<char>(random());
      file.seekp(static_cast<std::streamoff>(random() % (bytes - data.size())));
      file.write(data.data(), static_cast<std::streamsize>(data.size()));
    }
    file.seekp(static_cast<std::streamoff>(bytes - 1));
    file.put('e');
    return path;
  }
  const testing::ScratchFolder scratch;
  const std::filesystem::path& folder = scratch.path();
};

TEST_F(ConvertTest, ToAndFroIsTheSame) {
  const std::string raw = sparse_raw("disk.raw", (uint64_t{70} << 20) + 512 * 3);
  uint64_t last = 0, total = 0;
  ASSERT_TRUE(
      convert_image({.source = raw, .target = at("disk.qcow2"), .on_progress = [&](uint64_t done, uint64_t all) {
                       EXPECT_GT(done, last);
                       last = done;
                       total = all;
                     }}));
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, std::filesystem::file_size(raw));
  ASSERT_TRUE(convert_image(
      {.source = at("disk.qcow2"), .source_format = "qcow2", .target = at("again.raw"), .target_format = "raw"}));
  EXPECT_EQ(shell(fmt::format("cmp {} {}", raw, at("again.raw"))), 0);
  struct stat before{}, after{};
  ASSERT_EQ(stat(raw.c_str(), &before), 0);
  ASSERT_EQ(stat(at("again.raw").c_str(), &after), 0);
  EXPECT_LE(after.st_blocks, before.st_blocks + 40 * 256);  // as sparse, to a grain at each end of a piece
  if (!have_qemu()) GTEST_SKIP() << "qemu-img is not installed: not judged by it";
  EXPECT_EQ(shell(fmt::format("qemu-img check -f qcow2 {}", at("disk.qcow2"))), 0);
  EXPECT_EQ(shell(fmt::format("qemu-img compare -f raw -F qcow2 {} {}", raw, at("disk.qcow2"))), 0);
}

TEST_F(ConvertTest, BackingFilesAndCompressedClusters) {
  if (!have_qemu()) GTEST_SKIP() << "qemu-img is not installed";
  const std::string raw = sparse_raw("base.raw", uint64_t{20} << 20);
  ASSERT_EQ(shell(fmt::format("qemu-img convert -c -O qcow2 {} {}", raw, at("base.qcow2"))), 0);
  ASSERT_EQ(shell(fmt::format("qemu-img create -f qcow2 -b base.qcow2 -F qcow2 {} 30M", at("top.qcow2"))), 0);
  ASSERT_EQ(shell(fmt::format("qemu-io -f qcow2 -c 'write -P 7 1M 3M' -c 'write -z 5M 1M' {}", at("top.qcow2"))), 0);
  ASSERT_TRUE(convert_image({.source = at("top.qcow2"), .source_format = "qcow2", .target = at("flat.qcow2")}));
  const auto info = inspect_image(at("flat.qcow2"), "qcow2");
  ASSERT_TRUE(info);
  EXPECT_EQ(info->backing_file, "");
  EXPECT_EQ(shell(fmt::format("qemu-img compare -f qcow2 -F qcow2 {} {}", at("top.qcow2"), at("flat.qcow2"))), 0);
  EXPECT_EQ(shell(fmt::format("qemu-img check -f qcow2 {}", at("flat.qcow2"))), 0);
}

TEST_F(ConvertTest, MistakesLeaveNothingBehind) {
  const std::string raw = sparse_raw("disk.raw", uint64_t{1} << 20);
  std::ofstream(at("there")) << "precious";
  const auto exists = convert_image({.source = raw, .target = at("there")});
  ASSERT_FALSE(exists);
  EXPECT_THAT(exists.error().to_string(), HasSubstr("File exists"));
  EXPECT_EQ(std::filesystem::file_size(at("there")), 8u);
  EXPECT_FALSE(convert_image({.source = at("missing"), .target = at("new")}));
  EXPECT_FALSE(convert_image({.source = raw, .source_format = "qcow2", .target = at("new")}));
  EXPECT_FALSE(convert_image({.source = raw, .target = at("new"), .target_format = "vdi"}));
  EXPECT_FALSE(std::filesystem::exists(at("new")));
}

TEST_F(ConvertTest, AFifoIsNotWaitedFor) {
  ASSERT_EQ(mkfifo(at("fifo").c_str(), 0600), 0);
  EXPECT_FALSE(convert_image({.source = at("fifo"), .target = at("new")}));
  EXPECT_FALSE(inspect_image(at("fifo"), ""));
}

TEST_F(ConvertTest, ALinkOutOfTheFolderIsOutsideIt) {
  std::filesystem::create_directories(at("inside"));
  const std::string raw = sparse_raw("secret.raw", uint64_t{1} << 20);
  std::filesystem::create_symlink(raw, at("inside/base.raw"));
  ASSERT_TRUE(create_image({.path = at("inside/top.qcow2"), .backing_file = "base.raw", .backing_format = "raw"}));
  ConvertOptions options{.source = at("inside/top.qcow2"), .source_format = "qcow2", .target = at("new")};
  const auto refused = convert_image(options);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().to_string(), HasSubstr("outside its folder"));
  // Trust in one file is not trust in what it names.
  auto loop = *base::EventLoop::create();
  ASSERT_TRUE(
      create_image({.path = at("front.qcow2"), .backing_file = at("inside/top.qcow2"), .backing_format = "qcow2"}));
  const std::string top = std::filesystem::canonical(at("inside/top.qcow2"));
  EXPECT_FALSE(open_disk(*loop, at("front.qcow2"), {.format = "qcow2", .trusted_backing = top}));
  ASSERT_TRUE(create_image({.path = at("plain.qcow2"), .backing_file = raw, .backing_format = "raw"}));
  std::filesystem::create_directories(at("far"));
  std::filesystem::rename(at("plain.qcow2"), at("far/plain.qcow2"));
  EXPECT_FALSE(open_disk(*loop, at("far/plain.qcow2"), {.format = "qcow2"}));
  EXPECT_TRUE(
      open_disk(*loop, at("far/plain.qcow2"), {.format = "qcow2", .trusted_backing = std::filesystem::canonical(raw)}));
  options.backing_anywhere = true;
  EXPECT_TRUE(convert_image(options));
}

// A file system that fills up in the middle.
TEST_F(ConvertTest, AFullDisk) {
  const std::string raw = sparse_raw("disk.raw", uint64_t{16} << 20);
  const std::string small = at("small");
  std::filesystem::create_directories(small);
  if (shell(fmt::format("mount -t tmpfs -o size=400k none {} 2>/dev/null", small)) != 0)
    GTEST_SKIP() << "no right to mount a small file system";
  const auto full = convert_image({.source = raw, .target = small + "/new.qcow2"});
  const bool left = std::filesystem::exists(small + "/new.qcow2");
  EXPECT_EQ(shell(fmt::format("umount {}", small)), 0);
  ASSERT_FALSE(full);
  EXPECT_THAT(full.error().to_string(), HasSubstr("No space left"));
  EXPECT_FALSE(left);
}

TEST_F(ConvertTest, TheTargetHasItsNameOnlyWhenItIsWhole) {
  const std::string raw = sparse_raw("disk.raw", 8 << 20), target = at("disk.qcow2"), part = target + ".part";
  std::ofstream(part) << "left by one that was interrupted";
  bool seen = false;
  ASSERT_TRUE(convert_image({.source = raw, .target = target, .on_progress = [&](uint64_t, uint64_t) {
                               seen = true;
                               EXPECT_FALSE(std::filesystem::exists(target));
                               EXPECT_TRUE(std::filesystem::exists(part));
                             }}));
  EXPECT_TRUE(seen);
  EXPECT_TRUE(std::filesystem::exists(target));
  EXPECT_FALSE(std::filesystem::exists(part));
}

TEST_F(ConvertTest, AFileThatAppearsMeanwhileIsNotOverwritten) {
  const std::string raw = sparse_raw("disk.raw", 8 << 20), target = at("disk.qcow2");
  EXPECT_FALSE(convert_image({.source = raw, .target = target, .on_progress = [&](uint64_t, uint64_t) {
                                std::ofstream(target) << "another's";
                              }}));
  EXPECT_EQ(std::filesystem::file_size(target), 9u);
  EXPECT_FALSE(std::filesystem::exists(target + ".part"));
}

TEST_F(ConvertTest, AFormatIsNotGuessedFromWhatIsInAFile) {
  ASSERT_TRUE(create_image({.path = at("disk.qcow2"), .size_bytes = 1 << 20}));
  std::filesystem::copy(at("disk.qcow2"), at("disk.img"));
  EXPECT_EQ(format_unsaid(at("disk.qcow2"), "x").value(), "qcow2");
  EXPECT_EQ(format_unsaid(sparse_raw("disk.raw", 1 << 20), "x").value(), "raw");
  const auto refused = format_unsaid(at("disk.img"), "--format");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().to_string(), HasSubstr("say which it is with --format"));
}

}  // namespace
}  // namespace rhea::block
