// SPDX-License-Identifier: Apache-2.0
// Tap devices in a network namespace of the test's own: frames to the host's stack and back, and what goes wrong.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "base/fd.h"
#include "base/io_thread.h"
#include "net/frames_fake.h"
#include "net/network.h"

namespace rhea::net {
namespace {

using ::testing::HasSubstr;

// Runs `body` on a thread with a network namespace of its own: nothing of the host's is touched. False: not allowed.
bool in_own_network(const std::function<void()>& body) {
  bool entered = false;
  std::thread([&] {
    const base::UniqueFd tun(access("/dev/net/tun", R_OK | W_OK) == 0 && unshare(CLONE_NEWNET) == 0
                                 ? socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)
                                 : -1);
    if (!tun) return;
    entered = true;
    body();
  }).join();
  return entered;
}
#define IN_OWN_NETWORK(body) \
  if (!in_own_network(body)) GTEST_SKIP() << "needs /dev/net/tun and the right to make networks"

base::UniqueFd control() { return base::UniqueFd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)); }

bool add_bridge(const char* name) { return ioctl(control().get(), SIOCBRADDBR, name) == 0; }

void set_address(const char* interface, const char* text) {
  ifreq request{};
  std::strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
  auto* const address = reinterpret_cast<sockaddr_in*>(&request.ifr_addr);
  address->sin_family = AF_INET;
  inet_pton(AF_INET, text, &address->sin_addr);
  ASSERT_EQ(ioctl(control().get(), SIOCSIFADDR, &request), 0) << strerror(errno);
}

std::string message(const Result<std::unique_ptr<Network>>& result) {
  return result ? "no error" : result.error().to_string();
}

constexpr std::array<uint8_t, 6> kMac = {0x52, 0x48, 1, 2, 3, 4};

class TapTest : public ::testing::Test {
 protected:
  Result<std::unique_ptr<Network>> create(const TapOptions& options) {
    return create_tap_network(thread->loop(), options);
  }
  std::unique_ptr<base::IoThread> thread = *base::IoThread::create("test-io");
};

// An ARP request for 10.9.0.1 as 10.9.0.2 sends it. [RFC 826]
std::vector<std::byte> arp_request() {
  std::vector<uint8_t> f = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x48, 1, 2, 3, 4, 8, 6, 0, 1, 8, 0,  6, 4, 0,
                            1,    0x52, 0x48, 1,    2,    3,    4,    10,   9, 0, 2, 0, 0, 0, 0, 0, 0, 10, 9, 0, 1};
  std::vector<std::byte> frame(f.size());
  std::memcpy(frame.data(), f.data(), f.size());
  return frame;
}

TEST_F(TapTest, FramesReachTheHostAndComeBack) {
  IN_OWN_NETWORK([this] {
    auto tap = create({.interface = "tap-test", .guest_mac = kMac, .mtu = 9000});
    ASSERT_TRUE(tap) << message(tap);
    set_address("tap-test", "10.9.0.1");
    ifreq request{};
    std::strncpy(request.ifr_name, "tap-test", IFNAMSIZ - 1);
    ioctl(control().get(), SIOCGIFMTU, &request);
    EXPECT_EQ(request.ifr_mtu, 9000);
    std::mutex mutex;
    std::condition_variable came;
    std::vector<std::byte> answer;
    (*tap)->set_receiver([&](std::span<const std::byte> frame, const FrameOffload&) {
      const std::lock_guard lock(mutex);
      if (frame.size() >= 42 && frame[12] == std::byte{8} && frame[13] == std::byte{6} && frame[21] == std::byte{2})
        answer.assign(frame.begin(), frame.end());
      came.notify_one();
      return true;
    });
    (*tap)->send(arp_request(), {});
    std::unique_lock lock(mutex);
    EXPECT_TRUE(came.wait_for(lock, std::chrono::seconds(20), [&] { return !answer.empty(); }));
    lock.unlock();
    (*tap)->set_receiver(nullptr);
  });
}

// A frame that the receiver had no room after: the next one waits until there is.
TEST_F(TapTest, HoldsFramesBack) {
  IN_OWN_NETWORK([this] {
    auto tap = create({.interface = "tap-test", .guest_mac = kMac});
    ASSERT_TRUE(tap) << message(tap);
    set_address("tap-test", "10.9.0.1");
    std::atomic<int> received = 0;
    (*tap)->set_receiver([&](std::span<const std::byte>, const FrameOffload&) {
      ++received;
      return false;
    });
    const auto give = [&](int wanted) {
      for (int i = 0; i < 2000 && received < wanted; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    };
    (*tap)->send(arp_request(), {});
    (*tap)->send(arp_request(), {});
    give(1);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    thread->run_sync([] {});
    EXPECT_EQ(received, 1);
    (*tap)->receive_more();
    give(2);
    EXPECT_EQ(received, 2);
    (*tap)->set_receiver(nullptr);
  });
}

TEST_F(TapTest, JoinsABridge) {
  IN_OWN_NETWORK([this] {
    if (!add_bridge("br-test")) GTEST_SKIP() << "this kernel has no bridges";
    auto tap = create({.bridge = "br-test", .guest_mac = kMac});
    ASSERT_TRUE(tap) << message(tap);
    const auto other = create({.bridge = "br-test", .guest_mac = kMac});
    EXPECT_THAT(message(other), HasSubstr("52:48:01:02:03:04"));
    auto third = create({.bridge = "br-test", .guest_mac = {0x52, 0x48, 1, 2, 3, 5}});
    ASSERT_TRUE(third) << message(third);
    // From one guest to the other.
    std::atomic<bool> came = false;
    (*third)->set_receiver([&](std::span<const std::byte> frame, const FrameOffload&) {
      if (frame.size() >= 14 && frame[13] == std::byte{6}) came = true;
      return true;
    });
    set_address("br-test", "10.9.0.1");
    ifreq up{};
    std::strncpy(up.ifr_name, "br-test", IFNAMSIZ - 1);
    up.ifr_flags = IFF_UP | IFF_RUNNING;
    ASSERT_EQ(ioctl(control().get(), SIOCSIFFLAGS, &up), 0);
    for (int i = 0; i < 2000 && !came; ++i) {
      (*tap)->send(arp_request(), {});
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_TRUE(came);
    (*third)->set_receiver(nullptr);
  });
}

TEST_F(TapTest, MistakesOfOneLine) {
  IN_OWN_NETWORK([this] {
    EXPECT_THAT(message(create({.interface = "a-name-that-is-too-long"})), HasSubstr("1 to 15 characters"));
    EXPECT_THAT(message(create({.interface = "a/b"})), HasSubstr("1 to 15 characters"));
    EXPECT_THAT(message(create({.interface = "lo"})), HasSubstr("lo is an interface of another kind"));
    EXPECT_THAT(message(create({.bridge = "br-none"})), HasSubstr("there is no bridge br-none"));
    EXPECT_THAT(message(create({.bridge = "lo"})), HasSubstr("lo is no bridge"));
    const auto tap = create({.interface = "tap-test"});
    ASSERT_TRUE(tap) << message(tap);
    EXPECT_THAT(message(create({.interface = "tap-test"})), HasSubstr("tap-test is in use"));
  });
}

// As somebody without rights. A child of its own: a process cannot have them back.
TEST(Tap, WithoutRights) {
  if (access("/dev/net/tun", F_OK) != 0) GTEST_SKIP() << "this host has no /dev/net/tun";
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(2);
    auto loop = base::EventLoop::create();
    const std::string text = message(create_tap_network(**loop, {.interface = "tap-test"}));
    _exit(write(ends[1], text.data(), text.size()) < 0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  char text[512] = {};
  ASSERT_GT(read(ends[0], text, sizeof text - 1), 0);
  // Whether the device file can be opened is the host's choice; either way it says what is missing.
  EXPECT_THAT(text, ::testing::AnyOf(HasSubstr("no permission for the tap device tap-test"),
                                     HasSubstr("opening /dev/net/tun for a tap device: Permission denied")));
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace rhea::net
