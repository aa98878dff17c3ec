// SPDX-License-Identifier: Apache-2.0
// All but the making of the system itself, which tests/debian-image does.
#include "provision/debian.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/fd.h"
#include "block/file_lock.h"
#include "block/image_tools.h"
#include "testing/scratch_folder.h"

namespace rhea::provision {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class DebianTest : public ::testing::Test {
 protected:
  DebianTest() {
    std::filesystem::create_directories(folder / "images/debian-12");
    std::filesystem::create_directories(folder / "keys");
    std::ofstream(folder / "images/debian-12/base.raw") << std::string(1 << 20, 'x');
  }
  void key(const char* name, const std::string& text) { std::ofstream(folder / "keys" / name) << text; }
  std::string keys() const { return (folder / "keys").string(); }
  DebianOptions options() const {
    return {.images = (folder / "images").string(), .name = "web", .keys_folder = keys()};
  }
  const testing::ScratchFolder scratch;
  const std::filesystem::path& folder = scratch.path();
};

TEST(Debian, WhatIsKnown) {
  EXPECT_EQ(known_system("debian")->value(), "debian-12");
  EXPECT_EQ(known_system("debian:12")->value(), "debian-12");
  EXPECT_FALSE(known_system("disk.img")->has_value());
  EXPECT_FALSE(known_system("debian.img")->has_value());
  ASSERT_FALSE(known_system("debian:99"));
  EXPECT_THAT(known_system("debian:99").error().to_string(), HasSubstr("Debian 12"));
}

TEST(Debian, Names) {
  for (const char* good : {"debian", "a", "web-2", "7up"}) EXPECT_TRUE(check_machine_name(good)) << good;
  for (const char* bad : {"", "base", "-a", "a/b", "..", "a b", "a\"b", "a.b", "ä"})
    EXPECT_FALSE(check_machine_name(bad)) << bad;
  EXPECT_FALSE(check_machine_name(std::string(64, 'a')));
}

TEST(Debian, Stages) {
  int last = 0;
  for (const char* line :
       {"I: running apt-get update...", "I: downloading packages with apt...", "I: extracting archives...",
        "I: installing essential packages...", "I: installing remaining packages inside the chroot...",
        "I: running --customize-hook in shell: sh", "I: creating tarball..."}) {
    const auto stage = stage_of(line);
    ASSERT_TRUE(stage) << line;
    EXPECT_GT(stage->percent, last);
    last = stage->percent;
  }
  EXPECT_FALSE(stage_of("Setting up libc6"));
}

TEST_F(DebianTest, KeysAreWholeAndHarmless) {
  key("id_rsa.pub", "ssh-rsa " + std::string(600, 'B') + " me@here\n");
  key("id_ed25519.pub", "ssh-ed25519 AAAAC3+/= someone with a long comment\n");
  key("evil.pub", "ssh-ed25519 AAAA\" init=/bin/sh \"\n");
  key("evil2.pub", "ssh-ed25519 AA\\x22AA x\n");
  key("not-a-key.pub", "hello\n");
  key("id_ed25519", "ssh-ed25519 PRIVATE me\n");
  EXPECT_THAT(public_keys(keys(), 1200), ElementsAre("ssh-ed25519 AAAAC3+/=", "ssh-rsa " + std::string(600, 'B')));
  EXPECT_THAT(public_keys(keys(), 100), ElementsAre("ssh-ed25519 AAAAC3+/="));
  EXPECT_THAT(public_keys((folder / "none").string(), 100), IsEmpty());
}

TEST_F(DebianTest, AMachineKeepsItsDiskUntilToldOtherwise) {
  key("id.pub", "ssh-ed25519 AAAA me\n");
  const auto first = prepare_debian(options());
  ASSERT_TRUE(first) << first.error().to_string();
  EXPECT_THAT(first->command_line, HasSubstr("systemd.hostname=web"));
  EXPECT_THAT(first->command_line, HasSubstr("ssh.authorized_keys.root:\"ssh-ed25519 AAAA\""));
  EXPECT_TRUE(first->has_keys);
  const auto info = block::inspect_image(first->disk, "");
  ASSERT_TRUE(info);
  EXPECT_EQ(info->backing_file, "base.raw");
  EXPECT_EQ(info->backing_format, "raw");
  std::ofstream(first->disk, std::ios::app) << "mark";
  const auto size = std::filesystem::file_size(first->disk);
  ASSERT_TRUE(prepare_debian(options()));
  EXPECT_EQ(std::filesystem::file_size(first->disk), size);
  DebianOptions fresh = options();
  fresh.fresh = true;
  ASSERT_TRUE(prepare_debian(fresh));
  EXPECT_EQ(std::filesystem::file_size(first->disk), size - 4);
  EXPECT_EQ(std::filesystem::file_size(first->disk + ".old"), size);
  const auto in_use = base::open_file(first->disk, O_RDWR);
  ASSERT_TRUE(in_use && block::lock_image(in_use->get(), true, first->disk));
  EXPECT_FALSE(prepare_debian(fresh));
  EXPECT_TRUE(std::filesystem::exists(first->disk));
}

TEST_F(DebianTest, WithoutKeysNobodyIsNamed) {
  const auto machine = prepare_debian(options());
  ASSERT_TRUE(machine);
  EXPECT_FALSE(machine->has_keys);
  EXPECT_THAT(machine->command_line, Not(HasSubstr("credential")));
}

// mmdebstrap takes minutes and the network; one that fails takes neither.
TEST_F(DebianTest, WhatFailsLeavesNothingBehindButItsLog) {
  if (geteuid() != 0) GTEST_SKIP() << "only root makes systems";
  std::filesystem::remove_all(folder / "images/debian-12");
  std::filesystem::create_directories(folder / "bin");
  for (const char* name : {"mmdebstrap"}) {
    std::ofstream(folder / "bin" / name)
        << "#!/bin/sh\necho 'I: running apt-get update...'\necho 'E: no route to the mirror'\nexit 25\n";
    std::filesystem::permissions(folder / "bin" / name, std::filesystem::perms::owner_all);
  }
  const std::string before = std::getenv("PATH");
  setenv("PATH", fmt::format("{}:{}", (folder / "bin").string(), before).c_str(), 1);
  const auto machine = prepare_debian(options());
  setenv("PATH", before.c_str(), 1);
  ASSERT_FALSE(machine);
  EXPECT_THAT(machine.error().to_string(), HasSubstr("E: no route to the mirror"));
  std::vector<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "images"))
    left.push_back(entry.path().filename());
  std::ranges::sort(left);
  EXPECT_THAT(left, ElementsAre(".lock", "debian-12.log"));
}

}  // namespace
}  // namespace rhea::provision
