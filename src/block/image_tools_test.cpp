// SPDX-License-Identifier: Apache-2.0
// Images made here, judged by qemu-img.
#include "block/image_tools.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/event_loop.h"
#include "block/disk.h"
#include "testing/scratch_folder.h"

namespace rhea::block {
namespace {

using ::testing::HasSubstr;

class ImageToolsTest : public ::testing::Test {
 protected:
  std::string at(const char* name) const { return scratch.at(name); }
  std::string failure(const CreateOptions& options) {
    const Status status = create_image(options);
    return status ? "" : status.error().message();
  }
  const testing::ScratchFolder scratch;
  const std::filesystem::path& folder = scratch.path();
};

TEST_F(ImageToolsTest, MakesImagesThatQemuFindsInOrder) {
  for (const uint64_t size : {uint64_t{512}, uint64_t{10} << 30, uint64_t{5} << 40}) {
    const std::string path = at("new.qcow2");
    ASSERT_TRUE(create_image({.path = path, .size_bytes = size}));
    const auto info = inspect_image(path, "");
    ASSERT_TRUE(info);
    EXPECT_EQ(info->format, "qcow2");
    EXPECT_EQ(info->disk_bytes, size);
    EXPECT_EQ(info->version, 3u);
    if (std::system("qemu-img --version >/dev/null 2>&1") == 0)
      EXPECT_EQ(std::system(fmt::format("qemu-img check -q -f qcow2 {}", path).c_str()), 0) << size;
    std::filesystem::remove(path);
  }
}

TEST_F(ImageToolsTest, AnOverlayHasItsBackingFilesSizeAndContent) {
  ASSERT_TRUE(create_image({.path = at("base.raw"), .format = "raw", .size_bytes = 1 << 20}));
  ASSERT_TRUE(create_image({.path = at("top.qcow2"), .backing_file = "base.raw", .backing_format = "raw"}));
  const auto info = inspect_image(at("top.qcow2"), "");
  ASSERT_TRUE(info);
  EXPECT_EQ(info->disk_bytes, 1u << 20);
  EXPECT_EQ(info->backing_file, "base.raw");
  EXPECT_EQ(info->backing_format, "raw");
  auto loop = *base::EventLoop::create();
  EXPECT_TRUE(open_disk(*loop, at("top.qcow2"), {.format = "qcow2"}));
}

TEST_F(ImageToolsTest, RefusesAndLeavesNothingBehind) {
  EXPECT_THAT(failure({.path = at("a")}), HasSubstr("how large"));
  EXPECT_THAT(failure({.path = at("a"), .size_bytes = 1000}), HasSubstr("multiple of 512"));
  EXPECT_THAT(failure({.path = at("a"), .format = "vdi", .size_bytes = 512}), HasSubstr("unknown disk format"));
  EXPECT_THAT(failure({.path = at("a"), .format = "raw", .size_bytes = 512, .backing_file = "b"}),
              HasSubstr("no backing file"));
  EXPECT_THAT(failure({.path = at("a"), .size_bytes = 512, .backing_file = "b"}), HasSubstr("raw or qcow2"));
  EXPECT_FALSE(std::filesystem::exists(at("a")));
  ASSERT_TRUE(create_image({.path = at("a"), .size_bytes = 512}));
  EXPECT_THAT(failure({.path = at("a"), .size_bytes = 512}), HasSubstr("File exists"));
}

}  // namespace
}  // namespace rhea::block
