// SPDX-License-Identifier: Apache-2.0
// Frames for tests, and a plain check of what is in them: written apart from the code under test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rhea::net::testing {

// A TCP (or UDP) frame with the sum of its pseudo-header where the checksum goes, and a right IPv4 checksum.
struct TcpFrame {
  bool ip6 = false, udp = false;
  unsigned tags = 0;
  uint32_t sequence = 1000;
  uint8_t flags = 0x10;
  size_t payload_bytes = 100;
  uint16_t window = 0x1234;
  bool complete = false;  // the whole checksum

  size_t network() const { return 14 + 4 * size_t{tags}; }
  size_t transport() const { return network() + (ip6 ? 40 : 20); }
  size_t payload() const { return transport() + (udp ? 8 : 20); }

  std::vector<std::byte> bytes() const {
    std::vector<std::byte> f(payload() + payload_bytes);
    const auto put8 = [&f](size_t at, unsigned value) { f[at] = static_cast<std::byte>(value); };
    const auto put16 = [&](size_t at, size_t value) {
      put8(at, static_cast<unsigned>(value >> 8 & 0xff));
      put8(at + 1, static_cast<unsigned>(value & 0xff));
    };
    for (size_t i = 0; i < 12; ++i) put8(i, 0x50 + static_cast<unsigned>(i));
    for (size_t i = 0; i < tags; ++i) {
      put16(12 + 4 * i, 0x8100);
      put16(14 + 4 * i, 5);
    }
    put16(network() - 2, ip6 ? 0x86dd : 0x0800);
    const size_t ip = network(), tcp = transport(), length = f.size() - tcp;
    if (ip6) {
      put8(ip, 0x60);
      put16(ip + 4, length);
      put8(ip + 6, udp ? 17 : 6);
      put8(ip + 7, 64);
      for (size_t i = 8; i < 40; ++i) put8(ip + i, 0xa0 + static_cast<unsigned>(i));
    } else {
      put8(ip, 0x45);
      put16(ip + 2, f.size() - ip);
      put16(ip + 4, 7);
      put8(ip + 8, 64);
      put8(ip + 9, udp ? 17 : 6);
      for (size_t i = 12; i < 20; ++i) put8(ip + i, 0xc0 + static_cast<unsigned>(i));
      put16(ip + 10, 0xffff & ~sum(std::span(f).subspan(ip, 20), 0));
    }
    put16(tcp, 1111);
    put16(tcp + 2, 2222);
    if (udp) {
      put16(tcp + 4, length);
    } else {
      put16(tcp + 4, sequence >> 16);
      put16(tcp + 6, sequence & 0xffff);
      put8(tcp + 12, 0x50);
      put8(tcp + 13, flags);
      put16(tcp + 14, window);
    }
    for (size_t i = 0; i < payload_bytes; ++i) put8(payload() + i, static_cast<unsigned>((sequence + i) * 7 & 0xff));
    const size_t at = tcp + (udp ? 6 : 16);
    put16(at, pseudo(f, ip, ip6, udp, length));
    if (complete) {
      const uint32_t all = 0xffff & ~sum(std::span(f).subspan(tcp), 0);
      put16(at, all == 0 ? 0xffff : all);
    }
    return f;
  }

  static uint32_t sum(std::span<const std::byte> bytes, uint32_t from) {
    for (size_t i = 0; i < bytes.size(); ++i) {
      from += std::to_integer<uint32_t>(bytes[i]) << (i % 2 ? 0 : 8);
      from = (from & 0xffff) + (from >> 16);
    }
    return from;
  }
  static uint32_t pseudo(std::span<const std::byte> f, size_t ip, bool ip6, bool udp, size_t length) {
    uint32_t total = sum(f.subspan(ip + (ip6 ? 8 : 12), ip6 ? 32 : 8), udp ? 17 : 6);
    total += static_cast<uint32_t>(length);
    while (total >> 16) total = (total & 0xffff) + (total >> 16);
    return total;
  }
};

// Lengths and checksums of a frame without IP options: all right?
inline bool sums_are_right(std::span<const std::byte> f) {
  const auto get16 = [&f](size_t at) {
    return std::to_integer<size_t>(f[at]) << 8 | std::to_integer<size_t>(f[at + 1]);
  };
  size_t ip = 14;
  while (get16(ip - 2) == 0x8100) ip += 4;
  const bool ip6 = get16(ip - 2) == 0x86dd;
  const size_t tcp = ip + (ip6 ? 40 : 20);
  const bool udp = f[ip + (ip6 ? 6 : 9)] == std::byte{17};
  if (get16(ip + (ip6 ? 4 : 2)) != f.size() - (ip6 ? tcp : ip)) return false;
  if (!ip6 && TcpFrame::sum(f.subspan(ip, 20), 0) != 0xffff) return false;
  if (udp && get16(tcp + 4) != f.size() - tcp) return false;
  const uint32_t start = TcpFrame::pseudo(f, ip, ip6, udp, f.size() - tcp);
  return TcpFrame::sum(f.subspan(tcp), start) == 0xffff;
}

}  // namespace rhea::net::testing
