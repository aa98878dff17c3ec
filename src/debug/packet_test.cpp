// SPDX-License-Identifier: Apache-2.0
// Framing of the GDB remote protocol.
#include "debug/packet.h"

#include <gtest/gtest.h>

namespace rhea::debug {
namespace {

using Kind = ParserEvent::Kind;

std::vector<ParserEvent> parse(std::string_view text, size_t piece = SIZE_MAX) {
  PacketParser parser;
  std::vector<ParserEvent> events;
  while (!text.empty()) {
    std::string_view now = text.substr(0, piece);
    text.remove_prefix(now.size());
    std::span<const uint8_t> input(reinterpret_cast<const uint8_t*>(now.data()), now.size());
    while (auto event = parser.next(input)) events.push_back(*event);
  }
  return events;
}

TEST(PacketParser, PacketsAcksAndInterrupts) {
  for (size_t piece : {size_t{1}, size_t{3}, SIZE_MAX}) {
    auto events = parse("+-\x03noise$g#67$#00", piece);
    ASSERT_EQ(events.size(), 5u);
    EXPECT_EQ(events[0].kind, Kind::kAck);
    EXPECT_EQ(events[1].kind, Kind::kNak);
    EXPECT_EQ(events[2].kind, Kind::kInterrupt);
    EXPECT_EQ(events[3].kind, Kind::kPacket);
    EXPECT_EQ(events[3].payload, "g");
    EXPECT_EQ(events[4].payload, "");
  }
}

TEST(PacketParser, ChecksumsAreChecked) {
  for (const char* text : {"$g#68", "$g#6x", "$g#x7"}) {
    auto events = parse(text);
    ASSERT_EQ(events.size(), 1u) << text;
    EXPECT_EQ(events[0].kind, Kind::kBadPacket);
  }
}

TEST(PacketParser, Escapes) {
  // '}' 0x03 is '#'; both bytes are in the checksum.
  auto events = parse(frame_packet(std::string("X}\x03}]", 5)));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].payload, "X#}");
}

TEST(PacketParser, ADollarBeginsAnew) {
  auto events = parse("$abc$g#67");
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].payload, "g");
}

TEST(PacketParser, LongPacketsAreRefusedAndForgotten) {
  std::string longest(kMaxPacketBytes, 'a');
  auto events = parse(frame_packet(longest) + frame_packet(longest + "a") + "$g#67");
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].payload, longest);
  EXPECT_EQ(events[1].kind, Kind::kBadPacket);
  EXPECT_EQ(events[2].payload, "g");
}

TEST(Packet, Hexadecimal) {
  EXPECT_EQ(to_hex(std::vector<uint8_t>{0x00, 0xaf, 0x10}), "00af10");
  EXPECT_EQ(from_hex("00aF10"), (std::vector<uint8_t>{0x00, 0xaf, 0x10}));
  EXPECT_FALSE(from_hex("0"));
  EXPECT_FALSE(from_hex("0g"));
  std::string_view text = "ffffffffffffffff,1";
  EXPECT_EQ(take_hex(text), UINT64_MAX);
  EXPECT_EQ(text, ",1");
  text = "10000000000000000";
  EXPECT_FALSE(take_hex(text));
  text = "";
  EXPECT_FALSE(take_hex(text));
}

TEST(Packet, FrameAndEscape) {
  EXPECT_EQ(frame_packet("OK"), "$OK#9a");
  EXPECT_EQ(escape_binary("a}b#"), "a}]b}\x03");
}

}  // namespace
}  // namespace rhea::debug
