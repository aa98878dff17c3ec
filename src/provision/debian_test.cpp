// SPDX-License-Identifier: Apache-2.0
// All but the making of the system itself, which tests/debian-image does.
#include "provision/debian.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/fd.h"
#include "block/file_lock.h"
#include "block/image_tools.h"
#include "provision/debian_scripts.h"
#include "provision/program.h"
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
    for (const char* name : {"base.raw", "vmlinuz", "initrd"})
      std::ofstream(folder / "images/debian-12" / name) << std::string(1 << 20, 'x');
  }
  void key(const char* name, const std::string& text) { std::ofstream(folder / "keys" / name) << text; }
  std::string keys() const { return (folder / "keys").string(); }
  DebianOptions options() const {
    return {.images = (folder / "images").string(), .name = "web", .keys_folder = keys()};
  }
  const testing::ScratchFolder scratch;
  const std::filesystem::path& folder = scratch.path();
};

bool zombie(pid_t process) {
  std::string line;
  std::getline(std::ifstream(fmt::format("/proc/{}/stat", process)), line);
  return line.find(") Z ") != std::string::npos;
}

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
  key("id_ed25519-cert.pub", "ssh-ed25519-cert-v01@openssh.com AAAAIHNz me\n");
  EXPECT_THAT(public_keys(keys()), ElementsAre("ssh-ed25519 AAAAC3+/=", "ssh-rsa " + std::string(600, 'B')));
  EXPECT_THAT(public_keys((folder / "none").string()), IsEmpty());
}

TEST_F(DebianTest, MoreKeysThanThereIsRoomForAreCounted) {
  for (int i = 0; i < 60; ++i) key(fmt::format("k{}.pub", i).c_str(), "ssh-rsa " + std::string(1000, 'B') + " me\n");
  const auto machine = prepare_debian(options());
  ASSERT_TRUE(machine);
  EXPECT_EQ(machine->keys + machine->keys_left_out, 60u);
  EXPECT_GT(machine->keys, 40u);
  EXPECT_GT(machine->keys_left_out, 0u);
  EXPECT_LT(machine->oem_strings.at(0).size(), 60u << 10);
}

TEST_F(DebianTest, ALostBaseIsSaidAtOnce) {
  ASSERT_TRUE(prepare_debian(options()));
  std::filesystem::remove(folder / "images/debian-12/base.raw");
  const auto machine = prepare_debian(options());
  ASSERT_FALSE(machine);
  EXPECT_THAT(machine.error().to_string(), ::testing::AllOf(HasSubstr("lacks base.raw"), HasSubstr("(web)"),
                                                            HasSubstr("begin anew: mv "), Not(HasSubstr("\n"))));
}

TEST_F(DebianTest, MirrorsAreAddresses) {
  DebianOptions with = options();
  for (const char* bad : {"/srv/debian", "ftp://x/debian", "http://", "http://x/debian main", "http://[x"}) {
    with.mirror = bad;
    const auto machine = prepare_debian(with);
    ASSERT_FALSE(machine) << bad;
    EXPECT_THAT(machine.error().to_string(), HasSubstr("--mirror takes"));
  }
  with.mirror = "http://mirror.example/debian";
  EXPECT_TRUE(prepare_debian(with));
}

TEST_F(DebianTest, AMachineKeepsItsDiskUntilToldOtherwise) {
  key("id.pub", "ssh-ed25519 AAAA me\n");
  const auto first = prepare_debian(options());
  ASSERT_TRUE(first) << first.error().to_string();
  EXPECT_THAT(first->command_line, HasSubstr("systemd.hostname=web"));
  EXPECT_THAT(first->oem_strings, ElementsAre("io.systemd.credential:ssh.authorized_keys.root=ssh-ed25519 AAAA"));
  EXPECT_EQ(first->keys, 1u);
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
  EXPECT_EQ(machine->keys, 0u);
  EXPECT_THAT(machine->oem_strings, IsEmpty());
}

// mmdebstrap takes minutes and the network; one of our own takes neither.
class DebianBuildTest : public DebianTest {
 protected:
  DebianBuildTest() {
    std::filesystem::remove_all(folder / "images/debian-12");
    std::filesystem::create_directories(folder / "bin");
    setenv("PATH", fmt::format("{}:{}", (folder / "bin").string(), path).c_str(), 1);
  }
  ~DebianBuildTest() override { setenv("PATH", path.c_str(), 1); }
  void program(const char* name, const std::string& text) {
    std::ofstream(folder / "bin" / name) << "#!/bin/sh\n" << text;
    std::filesystem::permissions(folder / "bin" / name, std::filesystem::perms::owner_all);
  }
  std::vector<std::string> left() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder / "images"))
      names.push_back(entry.path().filename());
    std::ranges::sort(names);
    return names;
  }
  const std::string path = std::getenv("PATH");
};

TEST_F(DebianBuildTest, WhatFailsLeavesNothingBehindButItsLog) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, or ids of its own";
  std::filesystem::create_directories(folder / "images/.debian-12-killed/tree");  // of a start that had no end
  program("mmdebstrap", "echo 'I: running apt-get update...'\necho 'E: cannot fetch from the mirror'\nexit 25\n");
  program("apt-get", "[ \"$1\" = indextargets ] && echo http://mirror.example/debian/\n");
  const auto machine = prepare_debian(options());
  ASSERT_FALSE(machine);
  EXPECT_THAT(machine.error().to_string(),
              ::testing::AllOf(HasSubstr("E: cannot fetch from the mirror"), HasSubstr("--mirror URL"),
                               HasSubstr("http://mirror.example/debian/"), Not(HasSubstr("\n"))));
  EXPECT_THAT(left(), ElementsAre(".lock", "debian-12.log"));
}

TEST_F(DebianBuildTest, ASignalEndsTheProgramsAndCleansUp) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, or ids of its own";
  program("mmdebstrap", fmt::format("touch '{0}/begun'\nsleep 1000 &\necho $! >'{0}/child'\nwait\n", folder.string()));
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    std::filesystem::remove(folder / "begun");
    std::filesystem::remove(folder / "child");
    const auto self = pthread_self();
    std::thread killer([&] {
      while (!std::filesystem::exists(folder / "child")) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      pthread_kill(self, number);
    });
    const auto machine = prepare_debian(options());
    killer.join();
    ASSERT_FALSE(machine);
    EXPECT_THAT(machine.error().to_string(), HasSubstr("interrupted"));
    EXPECT_THAT(left(), ElementsAre(".lock", "debian-12.log"));
    pid_t child = 0;
    std::ifstream(folder / "child") >> child;
    EXPECT_NE(child, 0);
    for (int i = 0; i < 1000 && kill(child, 0) == 0 && !zombie(child); ++i) usleep(5000);
    EXPECT_TRUE(kill(child, 0) != 0 || zombie(child)) << "what mmdebstrap had started goes on";
  }
}

// Proxies and mirrors as the guest gets them, by the script itself.
TEST_F(DebianBuildTest, PasswordsOfProxiesAreForRootAlone) {
  for (const char* name : {"apt/apt.conf.d", "apt/auth.conf.d"})
    std::filesystem::create_directories(folder / "root/etc" / name);
  std::ofstream(folder / "root/etc/apt/sources.list") << "deb http://127.0.0.1:8080/debian bookworm main\n";
  program("apt-config",
          "echo 'Acquire::http::Proxy \"http://me:p%40ss@proxy.example:3128/\";'\n"
          "echo 'Acquire::https::Proxy \"http://localhost:3129/\";'\n");
  program("chroot", "cat >/dev/null\n");
  const std::string script(kDebianAfterPackages);
  const size_t from = script.find("{ apt-config dump"), to = script.find("echo 'debconf debconf/frontend");
  ASSERT_NE(to, std::string::npos);
  const std::string part = fmt::format("root='{}'\n", (folder / "root").string()) + script.substr(from, to - from);
  std::string said;
  const auto status = run_program({"env", "-u", "http_proxy", "-u", "https_proxy", "sh", "-euc", part},
                                  [&said](std::string_view line) { said += line; });
  ASSERT_TRUE(status);
  ASSERT_EQ(*status, 0) << said;
  const auto text = [this](const char* name) {
    const auto bytes = base::read_file((folder / "root/etc/apt" / name).string(), 1 << 16);
    return bytes ? std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size()) : "none";
  };
  EXPECT_EQ(text("apt.conf.d/90rhea-proxy"),
            "Acquire::http::Proxy \"http://proxy.example:3128/\";\n"
            "Acquire::https::Proxy \"http://10.0.2.2:3129/\";\n");
  EXPECT_EQ(text("auth.conf.d/90rhea-proxy.conf"), "machine http://proxy.example:3128 login me password p@ss\n");
  EXPECT_EQ(std::filesystem::status(folder / "root/etc/apt/auth.conf.d/90rhea-proxy.conf").permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_EQ(text("sources.list"), "deb http://10.0.2.2:8080/debian bookworm main\n");
}

}  // namespace
}  // namespace rhea::provision
