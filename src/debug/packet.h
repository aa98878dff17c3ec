// SPDX-License-Identifier: Apache-2.0
// The GDB remote protocol's framing: $payload#checksum, acknowledgements, escapes and hexadecimal.
// Spec: "Debugging with GDB", appendix E.1.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rhea::debug {

// The largest payload taken and sent; announced to gdb as PacketSize.
inline constexpr size_t kMaxPacketBytes = 0x4000;

struct ParserEvent {
  enum class Kind {
    kAck,        // '+'
    kNak,        // '-'
    kInterrupt,  // 0x03 outside a packet
    kPacket,     // payload, unescaped
    kBadPacket,  // wrong checksum or too long: to be answered with '-'
  };
  Kind kind;
  std::string payload;
};

// Bytes in, events out. Keeps at most kMaxPacketBytes. The peer is hostile.
class PacketParser {
 public:
  // Consumes bytes up to and including the end of one event; `input` is advanced. nullopt: input is used up.
  std::optional<ParserEvent> next(std::span<const uint8_t>& input);

 private:
  enum class State { kIdle, kPayload, kEscape, kChecksumHigh, kChecksumLow };
  State state_ = State::kIdle;
  std::string payload_;
  bool too_long_ = false;
  uint8_t sum_ = 0;
  uint8_t high_digit_ = 0;
  bool bad_digit_ = false;
};

// "$payload#xx", with what must be escaped escaped.
std::string frame_packet(std::string_view payload);

std::string to_hex(std::span<const uint8_t> bytes);
// Decodes pairs of digits; nullopt for an odd number of them or anything else.
std::optional<std::vector<uint8_t>> from_hex(std::string_view text);
// Escapes binary data for qXfer answers.
std::string escape_binary(std::string_view data);

// Reads a hexadecimal number (at least one digit, at most 16) off the front of `text`.
std::optional<uint64_t> take_hex(std::string_view& text);
// Removes `prefix` from the front; false if it is not there.
bool take_prefix(std::string_view& text, std::string_view prefix);

}  // namespace rhea::debug
