// SPDX-License-Identifier: Apache-2.0
// What is joined, and that cutting it again gives what came in.
#include "net/coalescer.h"

#include <gtest/gtest.h>

#include "net/frames_fake.h"

namespace rhea::net {
namespace {

using testing::TcpFrame;
using Frame = std::vector<std::byte>;
constexpr Offloads kAll{.checksum = true, .tcp4 = true, .tcp6 = true};

struct CoalescerTest : ::testing::Test {
  std::vector<Frame> frames;
  std::vector<FrameOffload> offloads;
  Coalescer coalescer{[this](std::span<const std::byte> frame, const FrameOffload& offload) {
    frames.emplace_back(frame.begin(), frame.end());
    offloads.push_back(offload);
  }};
  // `count` segments of 1000 bytes that follow each other.
  std::vector<Frame> stream(TcpFrame of, size_t count) const {
    std::vector<Frame> result;
    of.complete = true;
    of.payload_bytes = 1000;
    for (size_t i = 0; i < count; ++i, of.sequence += 1000) result.push_back(of.bytes());
    return result;
  }
};

TEST_F(CoalescerTest, JoinsAStreamAndNothingIsLost) {
  for (const bool ip6 : {false, true}) {
    frames.clear();
    offloads.clear();
    const auto parts = stream({.ip6 = ip6}, 5);
    for (const Frame& part : parts) coalescer.add(part, kAll);
    EXPECT_TRUE(frames.empty());
    coalescer.flush();
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_EQ(offloads[0].segment_bytes, 1000);
    std::vector<Frame> again;
    ASSERT_TRUE(hand_over(frames[0], offloads[0], {}, [&](std::span<const std::byte> frame, const FrameOffload&) {
      again.emplace_back(frame.begin(), frame.end());
    }));
    ASSERT_EQ(again.size(), 5u);
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_TRUE(testing::sums_are_right(again[i]));
      EXPECT_TRUE(std::equal(again[i].begin() + (ip6 ? 74 : 54), again[i].end(), parts[i].begin() + (ip6 ? 74 : 54)));
    }
  }
}

TEST_F(CoalescerTest, OneAloneStaysAsItCame) {
  const auto parts = stream({}, 1);
  coalescer.add(parts[0], kAll);
  coalescer.flush();
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(frames[0], parts[0]);
  EXPECT_EQ(offloads[0].flags, FrameOffload::kChecksumValid);
  EXPECT_EQ(offloads[0].segmentation, 0);
}

TEST_F(CoalescerTest, WhatDoesNotContinueIsNotJoined) {
  const TcpFrame first{.payload_bytes = 1000, .complete = true};
  std::vector<TcpFrame> others(5, first);
  for (auto& other : others) other.sequence += 1000;
  others[0].sequence += 1;  // a gap
  others[1].window = 5;     // says something else
  others[2].flags = 0x11;   // the end
  others[3].payload_bytes = 1001;
  others[4].ip6 = true;
  for (const TcpFrame& other : others) {
    frames.clear();
    offloads.clear();
    coalescer.add(first.bytes(), kAll);
    coalescer.add(other.bytes(), kAll);
    coalescer.flush();
    ASSERT_EQ(frames.size(), 2u);
    EXPECT_EQ(frames[0], first.bytes());
    EXPECT_EQ(frames[1], other.bytes());
  }
}

TEST_F(CoalescerTest, AShortSegmentOrAPushIsTheLast) {
  for (const bool push : {false, true}) {
    frames.clear();
    offloads.clear();
    TcpFrame of{.payload_bytes = 1000, .complete = true};
    coalescer.add(of.bytes(), kAll);
    of.sequence += 1000;
    if (push)
      of.flags |= 0x08;
    else
      of.payload_bytes = 500;
    coalescer.add(of.bytes(), kAll);
    of.sequence += static_cast<uint32_t>(of.payload_bytes);
    of.flags = 0x10;
    of.payload_bytes = 400;
    coalescer.add(of.bytes(), kAll);
    coalescer.flush();
    ASSERT_EQ(frames.size(), 2u);
    EXPECT_EQ(frames[0].size(), 54u + 1000 + (push ? 1000 : 500));
    EXPECT_EQ(std::to_integer<unsigned>(frames[0][47]), push ? 0x18u : 0x10u);
    EXPECT_EQ(frames[1].size(), 54u + 400);
  }
}

TEST_F(CoalescerTest, NeverLongerThanAPacketCanBe) {
  for (const Frame& part : stream({}, 200)) coalescer.add(part, kAll);
  coalescer.flush();
  size_t bytes = 0;
  for (const Frame& frame : frames) {
    EXPECT_LE(frame.size(), 14u + 65535);
    bytes += frame.size() - 54;
  }
  EXPECT_EQ(bytes, 200'000u);
}

TEST_F(CoalescerTest, NothingForWhomDoesNotTakeIt) {
  for (const Frame& part : stream({}, 3)) coalescer.add(part, {});
  EXPECT_EQ(frames.size(), 3u);
  EXPECT_EQ(offloads[0].flags, 0);
  for (const Frame& part : stream({.ip6 = true}, 3)) coalescer.add(part, {.checksum = true, .tcp4 = true});
  EXPECT_EQ(frames.size(), 6u);
}

TEST_F(CoalescerTest, CutOffOrPaddedFramesPassAsTheyAre) {
  const Frame whole = TcpFrame{.payload_bytes = 100, .complete = true}.bytes();
  for (size_t length = 14; length < whole.size() + 20; ++length) {
    Frame frame = whole;
    frame.resize(length);
    frames.clear();
    coalescer.add(frame, kAll);
    coalescer.flush();
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_EQ(frames[0], frame);
  }
}

}  // namespace
}  // namespace rhea::net
