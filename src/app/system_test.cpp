// SPDX-License-Identifier: Apache-2.0
// What `rhea run WHAT` takes a file for, and throw-away disks.
#include "app/system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "block/image_tools.h"
#include "testing/scratch_folder.h"

namespace rhea::app {
namespace {

using ::testing::HasSubstr;

class SystemTest : public ::testing::Test {
 protected:
  std::string file(const char* name, const std::string& bytes) {
    std::ofstream(folder / name) << bytes;
    return (folder / name).string();
  }
  const testing::ScratchFolder scratch;
  const std::filesystem::path& folder = scratch.path();
};

TEST_F(SystemTest, KernelsAndDisks) {
  std::string linux_kernel(0x1000, '\0');
  linux_kernel.replace(0x1fe, 2, "\x55\xaa");
  linux_kernel.replace(0x202, 4, "HdrS");
  EXPECT_EQ(*kind_of_file(file("vmlinuz", linux_kernel)), FileKind::kKernel);
  EXPECT_EQ(*kind_of_file(file("kernel.elf",
                               "\x7f"
                               "ELF...")),
            FileKind::kKernel);
  EXPECT_EQ(*kind_of_file(file("data", std::string(4096, 'x'))), FileKind::kRawDisk);
  // What a guest may write into its disk changes nothing of what the disk is.
  EXPECT_EQ(*kind_of_file(file("disk.img", linux_kernel)), FileKind::kRawDisk);
  EXPECT_EQ(*kind_of_file(file("disk.raw", "QFI\xfb")), FileKind::kRawDisk);
  EXPECT_EQ(*kind_of_file(file("plain", "QFI\xfb")), FileKind::kRawDisk);
  EXPECT_EQ(*kind_of_file(file("disk.qcow2", "anything")), FileKind::kQcow2Disk);
  EXPECT_FALSE(kind_of_file((folder / "missing").string()));
  EXPECT_THAT(kind_of_file(folder.string()).error().to_string(), HasSubstr("but a folder"));
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(kind_of_file((folder / "pipe").string()).error().to_string(), HasSubstr("but a pipe"));
}

TEST_F(SystemTest, ADiskNeedsAKernelUntilThereIsFirmware) {
  const std::string disk = file("disk.img", std::string(4096, 'x'));
  const auto alone = resolve_system({.what = disk});
  ASSERT_FALSE(alone);
  EXPECT_THAT(alone.error().to_string(), HasSubstr("--kernel"));
  const auto both = resolve_system({.what = disk, .kernel = "vmlinuz"});
  ASSERT_TRUE(both);
  ASSERT_EQ(both->disks.size(), 1u);
  EXPECT_EQ(both->disks[0].format, "raw");
  EXPECT_EQ(both->name, "rhea");
}

TEST_F(SystemTest, MistakesOfOneLine) {
  EXPECT_FALSE(resolve_system({.what = "debian:99"}));
  EXPECT_FALSE(resolve_system({.what = "debian", .kernel = "vmlinuz"}));
  EXPECT_FALSE(resolve_system({.what = (folder / "none").string()}));
  EXPECT_FALSE(resolve_system({.what = "debian", .snapshot = true, .fresh = true}));
  EXPECT_FALSE(resolve_system({.fresh = true, .kernel = "vmlinuz"}));
}

TEST_F(SystemTest, AThrowAwayDiskLiesInFrontOfTheOther) {
  RunOptions options{.snapshot = true, .kernel = "vmlinuz"};
  options.disks.push_back({.path = file("disk.img", std::string(1 << 20, 'x'))});
  options.disks.push_back({.path = file("fixed.img", std::string(1 << 20, 'x')), .read_only = true});
  const auto resolved = resolve_system(options);
  ASSERT_TRUE(resolved) << resolved.error().to_string();
  ASSERT_EQ(resolved->held_files.size(), 1u);
  struct stat held{}, named{};
  ASSERT_EQ(fstat(resolved->held_files[0]->get(), &held), 0);
  ASSERT_EQ(stat(resolved->disks[0].path.c_str(), &named), 0);
  EXPECT_EQ(held.st_ino, named.st_ino);
  EXPECT_EQ(held.st_nlink, 0u);  // no name is left to be forgotten
  EXPECT_EQ(resolved->disks[1].path, options.disks[1].path);
  const auto info = block::inspect_image(resolved->disks[0].path, "");
  ASSERT_TRUE(info);
  EXPECT_FALSE(resolved->disks[0].backing_anywhere);
  EXPECT_EQ(resolved->disks[0].trusted_backing, info->backing_file);
  EXPECT_EQ(info->format, "qcow2");
  EXPECT_EQ(info->disk_bytes, 1u << 20);
  EXPECT_EQ(info->backing_file, std::filesystem::canonical(options.disks[0].path));
}

}  // namespace
}  // namespace rhea::app
