// SPDX-License-Identifier: Apache-2.0
// Checksums and segments against a second, plainer reckoning of what they must be.
#include "net/offload.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "net/frames_fake.h"

namespace rhea::net {
namespace {

using testing::sums_are_right;
using testing::TcpFrame;
using Frame = std::vector<std::byte>;

struct Collected {
  std::vector<Frame> frames;
  std::vector<FrameOffload> offloads;
  FrameSink sink() {
    return [this](std::span<const std::byte> frame, const FrameOffload& offload) {
      frames.emplace_back(frame.begin(), frame.end());
      offloads.push_back(offload);
    };
  }
};

FrameOffload long_frame(const TcpFrame& of, uint16_t segment_bytes) {
  const size_t transport = of.transport();
  return {.flags = FrameOffload::kNeedsChecksum,
          .segmentation = static_cast<uint8_t>(of.udp   ? Segmentation::kUdp
                                               : of.ip6 ? Segmentation::kTcp6
                                                        : Segmentation::kTcp4),
          .segment_bytes = segment_bytes,
          .checksum_start = static_cast<uint16_t>(transport),
          .checksum_offset = of.udp ? uint16_t{6} : uint16_t{16}};
}

TEST(Checksum, OfAnyLengthAndPlace) {
  std::vector<std::byte> bytes(300);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 37 + 11);
  for (size_t from = 0; from < 9; ++from) {
    for (size_t count = 0; count + from <= bytes.size(); ++count) {
      uint64_t plain = 0;
      for (size_t i = 0; i < count; ++i) plain += std::to_integer<uint64_t>(bytes[from + i]) << (i % 2 ? 0 : 8);
      const auto part = std::span<const std::byte>(bytes).subspan(from, count);
      ASSERT_EQ(fold_checksum(add_to_checksum(0, part)), fold_checksum(plain)) << from << " " << count;
    }
  }
}

TEST(HandOver, LeavesUndoneWhatIsTaken) {
  const TcpFrame of{.payload_bytes = 5000};
  Frame frame = of.bytes();
  const Frame before = frame;
  Collected got;
  const Offloads all{.checksum = true, .tcp4 = true, .tcp6 = true, .udp = true, .congestion = true};
  ASSERT_TRUE(hand_over(frame, long_frame(of, 1000), all, got.sink()));
  ASSERT_EQ(got.frames.size(), 1u);
  EXPECT_EQ(got.frames[0], before);
  EXPECT_EQ(got.offloads[0].segment_bytes, 1000);
  EXPECT_TRUE(got.offloads[0].needs_checksum());
}

TEST(HandOver, CompletesAChecksum) {
  for (const bool udp : {false, true}) {
    for (const bool ip6 : {false, true}) {
      const TcpFrame of{.ip6 = ip6, .udp = udp, .payload_bytes = 333};
      Frame frame = of.bytes();
      FrameOffload offload = long_frame(of, 0);
      offload.segmentation = 0;
      Collected got;
      ASSERT_TRUE(hand_over(frame, offload, {}, got.sink()));
      ASSERT_EQ(got.frames.size(), 1u);
      EXPECT_TRUE(got.offloads[0].plain());
      EXPECT_TRUE(sums_are_right(got.frames[0])) << udp << ip6;
    }
  }
}

TEST(HandOver, CutsIntoSegments) {
  for (const unsigned tags : {0u, 1u, 2u}) {
    for (const bool udp : {false, true}) {
      for (const bool ip6 : {false, true}) {
        const TcpFrame of{
            .ip6 = ip6, .udp = udp, .tags = tags, .sequence = 0xffffff00, .flags = 0x99, .payload_bytes = 3500};
        Frame frame = of.bytes();
        const Frame whole = frame;
        Collected got;
        ASSERT_TRUE(hand_over(frame, long_frame(of, 1000), {}, got.sink()));
        ASSERT_EQ(got.frames.size(), 4u);
        Frame joined;
        for (size_t i = 0; i < 4; ++i) {
          const Frame& part = got.frames[i];
          const auto headers = find_headers(part);
          ASSERT_TRUE(headers);
          EXPECT_EQ(headers->ip6, ip6);
          EXPECT_EQ(headers->udp, udp);
          EXPECT_TRUE(got.offloads[i].plain());
          EXPECT_TRUE(sums_are_right(part)) << i;
          joined.insert(joined.end(), part.begin() + static_cast<ptrdiff_t>(headers->payload), part.end());
          if (!ip6) EXPECT_EQ(get_be16(part, headers->network + 4), 7 + i);
          if (udp) continue;
          EXPECT_EQ(get_be32(part, headers->transport + 4), 0xffffff00 + static_cast<uint32_t>(1000 * i));
          // CWR in the first only; PSH and FIN in the last only; ACK in all.
          EXPECT_EQ(std::to_integer<unsigned>(part[headers->transport + 13]), i == 0 ? 0x90u : i == 3 ? 0x19u : 0x10u);
        }
        EXPECT_EQ(joined, Frame(whole.end() - 3500, whole.end()));
      }
    }
  }
}

TEST(HandOver, ALongFrameWithItsChecksumOnly) {
  const TcpFrame of{.payload_bytes = 5000};
  Frame frame = of.bytes();
  frame[of.transport() + 16] = std::byte{0x12};  // a driver's sum of another length
  Collected got;
  ASSERT_TRUE(hand_over(frame, long_frame(of, 1000), {.tcp4 = true}, got.sink()));
  ASSERT_EQ(got.frames.size(), 1u);
  EXPECT_TRUE(sums_are_right(got.frames[0]));
  EXPECT_FALSE(got.offloads[0].needs_checksum());
  EXPECT_EQ(got.offloads[0].segment_bytes, 1000);
}

TEST(HandOver, CongestionIsCutForWhomItIsNew) {
  const TcpFrame of{.payload_bytes = 2000};
  Frame frame = of.bytes();
  FrameOffload offload = long_frame(of, 1000);
  offload.segmentation |= FrameOffload::kExplicitCongestion;
  Collected got;
  ASSERT_TRUE(hand_over(frame, offload, {.checksum = true, .tcp4 = true}, got.sink()));
  EXPECT_EQ(got.frames.size(), 2u);
}

// One frame must not become thousands of times itself: 60,000 segments of a byte behind 54 bytes of headers each.
TEST(HandOver, RefusesSegmentsThatAreMostlyHeaders) {
  const TcpFrame of{.payload_bytes = 60000};
  Frame frame = of.bytes();
  EXPECT_FALSE(hand_over(frame, long_frame(of, 1), {}, [](auto, auto) { FAIL(); }));
  size_t segments = 0;
  frame = of.bytes();
  EXPECT_TRUE(hand_over(frame, long_frame(of, 100), {}, [&](auto, auto) { ++segments; }));
  EXPECT_EQ(segments, 600u);
}

TEST(HandOver, RefusesNonsense) {
  const TcpFrame of{.payload_bytes = 3000};
  const FrameOffload good = long_frame(of, 1000);
  std::vector<FrameOffload> bad(9, good);
  bad[0].checksum_start = 0xffff;
  bad[1].checksum_offset = 0xffff;
  bad[2].checksum_start = 33;
  bad[3].checksum_offset = 6;
  bad[4].segment_bytes = 0;
  bad[5].segmentation = static_cast<uint8_t>(Segmentation::kTcp6);
  bad[6].segmentation = 3;
  bad[7].flags = 0;
  bad[8].segmentation = static_cast<uint8_t>(Segmentation::kUdp);
  for (size_t i = 0; i < bad.size(); ++i) {
    Frame frame = of.bytes();
    EXPECT_FALSE(hand_over(frame, bad[i], {}, [](auto, auto) { FAIL(); })) << i;
  }
  for (size_t length = 14; length <= of.transport() + 20; ++length) {  // nothing behind the headers, or not even those
    Frame frame = of.bytes();
    frame.resize(length);
    EXPECT_FALSE(hand_over(frame, good, {}, [](auto, auto) { FAIL(); })) << length;
  }
  Frame frame = of.bytes();
  frame[of.transport() + 12] = std::byte{0xf0};  // a header longer than it is, but within the frame: cut there
  EXPECT_TRUE(hand_over(frame, good, {}, [](auto, auto) {}));
  frame.resize(of.transport() + 40);
  EXPECT_FALSE(hand_over(frame, good, {}, [](auto, auto) { FAIL(); }));
}

}  // namespace
}  // namespace rhea::net
