// SPDX-License-Identifier: Apache-2.0
// File systems that mke2fs has made and filled.
#include "provision/ext4_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/fd.h"
#include "block/file_lock.h"
#include "block/image_tools.h"
#include "provision/disk_kernel.h"
#include "provision/program.h"
#include "testing/scratch_folder.h"

namespace rhea::provision {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

class Ext4Test : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!program_exists("mke2fs")) GTEST_SKIP() << "mke2fs is not installed";
    std::filesystem::create_directories(scratch.path() / "tree/boot");
    for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 7 + i / 4096);
    write("boot/vmlinuz-1", content);
    write("boot/empty", "");
    // With holes: several extents, more than an inode holds.
    const base::UniqueFd holes(open((scratch.path() / "tree/boot/holes").c_str(), O_WRONLY | O_CREAT, 0600));
    for (off_t i = 0; i < 20; ++i) ASSERT_EQ(pwrite(holes.get(), "x", 1, i * 65536), 1);
    for (int i = 0; i < 300; ++i) write(fmt::format("boot/file-with-a-rather-long-name-{}", i), std::to_string(i));
    std::filesystem::create_symlink("vmlinuz-1", scratch.path() / "tree/boot/link");
  }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(scratch.path() / "tree" / name) << text;
  }
  Result<Ext4Files> make(const std::vector<std::string>& options) {
    std::vector<std::string> argv = {"mke2fs", "-q", "-F", "-t", "ext4", "-d", scratch.at("tree")};
    argv.insert(argv.end(), options.begin(), options.end());
    argv.insert(argv.end(), {scratch.at("disk"), "32M"});
    std::string said;
    EXPECT_EQ(*run_program(argv, [&said](std::string_view line) { said += line; }), 0) << said;
    disk = *base::read_file(scratch.at("disk"), 64 << 20);
    return again();
  }
  Result<Ext4Files> again() {
    return Ext4Files::open([this](uint64_t offset, std::span<std::byte> out) -> Status {
      if (offset > disk.size() || out.size() > disk.size() - offset) return fail(ErrorCode::kIo, "beyond the disk");
      std::memcpy(out.data(), disk.data() + offset, out.size());
      return {};
    });
  }
  static std::string text(const std::vector<std::byte>& bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  const testing::ScratchFolder scratch;
  std::string content = std::string(3'000'001, '\0');
  std::vector<std::byte> disk;
};

TEST_F(Ext4Test, ReadsWhatWasWritten) {
  for (const std::vector<std::string>& options :
       {std::vector<std::string>{}, {"-b", "1024"}, {"-O", "^64bit"}, {"-O", "^metadata_csum,^flex_bg"}}) {
    auto files = make(options);
    ASSERT_TRUE(files) << files.error().to_string();
    EXPECT_TRUE(files->clean());
    const auto names = files->list("boot");
    ASSERT_TRUE(names);
    EXPECT_EQ(names->size(), 306u);  // with . and ..
    EXPECT_THAT(*names, Contains("file-with-a-rather-long-name-299"));
    const auto kernel = files->find("boot", "vmlinuz-1");
    ASSERT_TRUE(kernel) << kernel.error().to_string();
    EXPECT_EQ(text(*files->read(*kernel, 1 << 24)), content);
    const auto holes = text(*files->read(*files->find("boot", "holes"), 1 << 24));
    ASSERT_EQ(holes.size(), 19u * 65536 + 1);
    for (size_t i = 0; i < holes.size(); ++i) ASSERT_EQ(holes[i], i % 65536 == 0 ? 'x' : '\0') << i;
    EXPECT_EQ(text(*files->read(*files->find("boot", "file-with-a-rather-long-name-123"), 1 << 24)), "123");
  }
}

TEST_F(Ext4Test, WhatIsNotThere) {
  auto files = make({});
  ASSERT_TRUE(files);
  EXPECT_FALSE(files->find("boot", "vmlinuz-2"));
  EXPECT_FALSE(files->find("root", "vmlinuz-1"));
  EXPECT_THAT(files->find("boot", "link").error().to_string(), HasSubstr("is no file"));
  EXPECT_EQ(files->read(*files->find("boot", "vmlinuz-1"), 1000).error().code(), ErrorCode::kExhausted);
  EXPECT_TRUE(files->read(*files->find("boot", "empty"), 1000)->empty());
}

TEST_F(Ext4Test, OtherFileSystemsAndDirtyOnes) {
  ASSERT_TRUE(make({}));
  disk[1024 + 0x60] |= std::byte{4};  // the journal is to be replayed
  EXPECT_FALSE(again()->clean());
  disk[1024 + 0x61] |= std::byte{0x80};  // inline data
  EXPECT_EQ(again().error().code(), ErrorCode::kUnsupported);
  disk[1024 + 0x38] = std::byte{0};
  EXPECT_THAT(again().error().to_string(), HasSubstr("no ext4 file system"));
  disk.resize(1000);
  EXPECT_FALSE(again());
}

TEST(DiskKernel, ReleasesByTheirNumbers) {
  const char* const ordered[] = {"5.10.0-30-amd64",      "6.1.0-9-cloud-amd64",      "6.1.0-10-cloud-amd64",
                                 "6.1.0-56-cloud-amd64", "6.12.9+deb12-cloud-amd64", "6.12.95+deb12-cloud-amd64"};
  for (size_t i = 0; i < std::size(ordered); ++i)
    for (size_t j = 0; j < std::size(ordered); ++j) EXPECT_EQ(older_release(ordered[i], ordered[j]), i < j) << i << j;
}

// A qcow2 disk in front of a base, as machines have it.
TEST_F(Ext4Test, TheNewestKernelWithAnInitrd) {
  std::string head(0x8000, '\0');
  head.replace(0x202, 4, "HdrS");
  head[0x20e] = 0x10;
  head.replace(0x210, 9, "6.1.0-9 x");
  write("kernel", head);
  write("initrd", "made");
  write("boot/vmlinuz-6.1.0-9", head);
  write("boot/initrd.img-6.1.0-9", "made");
  const auto look = [this](const char* name) {
    EXPECT_TRUE(
        block::create_image({.path = scratch.at(name), .backing_file = "disk", .backing_format = "raw", .mode = 0600}));
    return kernel_on_disk(scratch.at(name), scratch.at("tree/kernel"), scratch.at("tree/initrd"));
  };
  EXPECT_EQ(release_of(scratch.at("tree/kernel")), "6.1.0-9");
  ASSERT_TRUE(make({}));
  auto found = look("a.qcow2");
  ASSERT_TRUE(found) << found.error().to_string();
  EXPECT_FALSE(*found);  // the one that is there
  write("boot/vmlinuz-6.1.0-10", "ten");
  write("boot/vmlinuz-6.1.0-11", "without an initrd");
  write("boot/initrd.img-6.1.0-10", "initrd of ten");
  ASSERT_TRUE(make({}));
  found = look("b.qcow2");
  ASSERT_TRUE(found && *found);
  EXPECT_EQ((*found)->release, "6.1.0-10");
  EXPECT_EQ(text((*found)->kernel), "ten");
  EXPECT_EQ(text((*found)->initrd), "initrd of ten");
  disk[1024 + 0x60] |= std::byte{4};
  std::ofstream(scratch.at("disk"), std::ios::binary).write(reinterpret_cast<const char*>(disk.data()), 32 << 20);
  EXPECT_THAT(look("c.qcow2").error().to_string(), HasSubstr("was not powered off"));
  const auto in_use = base::open_file(scratch.at("c.qcow2"), O_RDWR);
  ASSERT_TRUE(block::lock_image(in_use->get(), true, "c"));
  EXPECT_EQ(kernel_on_disk(scratch.at("c.qcow2"), "", "").error().code(), ErrorCode::kBusy);
}

}  // namespace
}  // namespace rhea::provision
