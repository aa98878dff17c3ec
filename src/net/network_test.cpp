// SPDX-License-Identifier: Apache-2.0
// Forwards as the user writes them, and a DHCP conversation with the user-mode network.
#include "net/network.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>

namespace rhea::net {
namespace {

TEST(Forward, IsReadAndRefused) {
  auto forward = parse_forward("tcp:2222:22");
  ASSERT_TRUE(forward);
  EXPECT_FALSE(forward->udp);
  EXPECT_EQ(forward->host_address, "127.0.0.1");
  EXPECT_EQ(forward->host_port, 2222);
  EXPECT_EQ(forward->guest_port, 22);
  forward = parse_forward("udp:0.0.0.0:5353:53");
  ASSERT_TRUE(forward);
  EXPECT_TRUE(forward->udp);
  EXPECT_EQ(forward->host_address, "0.0.0.0");
  for (const char* bad :
       {"", "tcp", "tcp:1", "icmp:1:2", "tcp:0:22", "tcp:22:65536", "tcp:a:b", "tcp:1:2:3:4", "tcp::1:"})
    EXPECT_FALSE(parse_forward(bad)) << bad;
}

TEST(UserNetwork, RefusesAPortThatIsTaken) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in name{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  socklen_t length = sizeof name;
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length), 0);
  const auto network = create_user_network({.forwards = {{.host_port = ntohs(name.sin_port), .guest_port = 22}}});
  EXPECT_FALSE(network);
  close(fd);
}

// An Ethernet frame with a DHCPDISCOVER. [RFC 2131]
std::vector<std::byte> discover() {
  std::vector<uint8_t> f(14 + 20 + 8 + 240 + 8, 0);
  std::memset(&f[0], 0xff, 6);
  const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};
  std::memcpy(&f[6], mac, 6);
  f[12] = 8;
  uint8_t* ip = &f[14];
  const auto ip_bytes = static_cast<uint16_t>(f.size() - 14);
  ip[0] = 0x45;
  ip[2] = static_cast<uint8_t>(ip_bytes >> 8);
  ip[3] = static_cast<uint8_t>(ip_bytes);
  ip[8] = 64;
  ip[9] = 17;
  std::memset(ip + 16, 0xff, 4);
  uint32_t sum = 0;
  for (int i = 0; i < 20; i += 2) sum += static_cast<uint32_t>(ip[i] << 8 | ip[i + 1]);
  sum = (sum & 0xffff) + (sum >> 16);
  ip[10] = static_cast<uint8_t>(~sum >> 8);
  ip[11] = static_cast<uint8_t>(~sum);
  uint8_t* udp = ip + 20;
  udp[1] = 68;
  udp[3] = 67;
  const auto udp_bytes = static_cast<uint16_t>(ip_bytes - 20);
  udp[4] = static_cast<uint8_t>(udp_bytes >> 8);
  udp[5] = static_cast<uint8_t>(udp_bytes);
  uint8_t* dhcp = udp + 8;
  dhcp[0] = 1;
  dhcp[1] = 1;
  dhcp[2] = 6;
  std::memcpy(dhcp + 28, mac, 6);
  const uint8_t options[] = {0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255};
  std::memcpy(dhcp + 236, options, sizeof options);
  std::vector<std::byte> frame(f.size());
  std::memcpy(frame.data(), f.data(), f.size());
  return frame;
}

TEST(UserNetwork, OffersAnAddress) {
  auto network = create_user_network({});
  ASSERT_TRUE(network);
  std::mutex mutex;
  std::condition_variable came;
  std::vector<std::byte> answer;
  (*network)->set_receiver([&](std::span<const std::byte> frame, const FrameOffload&) {
    std::lock_guard lock(mutex);
    if (frame.size() > 14 + 28 + 236) answer.assign(frame.begin(), frame.end());
    came.notify_one();
    return true;
  });
  (*network)->send(discover(), {});
  {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(came.wait_for(lock, std::chrono::seconds(20), [&] { return !answer.empty(); }));
    const size_t offered = 14 + 28 + 16;
    EXPECT_EQ(answer[offered], std::byte{10});
    EXPECT_EQ(answer[offered + 3], std::byte{15});
  }
  (*network)->set_receiver({});
}

}  // namespace
}  // namespace rhea::net
