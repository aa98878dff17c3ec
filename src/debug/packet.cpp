// SPDX-License-Identifier: Apache-2.0
// Framing of the GDB remote protocol.
#include "debug/packet.h"

#include <fmt/format.h>

namespace rhea::debug {

namespace {

constexpr uint8_t kInterruptByte = 0x03;

std::optional<uint8_t> digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

bool needs_escape(char c) { return c == '$' || c == '#' || c == '}' || c == '*'; }

}  // namespace

std::optional<ParserEvent> PacketParser::next(std::span<const uint8_t>& input) {
  using Kind = ParserEvent::Kind;
  auto store = [&](char c) {
    if (payload_.size() < kMaxPacketBytes)
      payload_.push_back(c);
    else
      too_long_ = true;
  };
  while (!input.empty()) {
    const uint8_t byte = input.front();
    input = input.subspan(1);
    switch (state_) {
      case State::kIdle:
        if (byte == '+') return ParserEvent{Kind::kAck, {}};
        if (byte == '-') return ParserEvent{Kind::kNak, {}};
        if (byte == kInterruptByte) return ParserEvent{Kind::kInterrupt, {}};
        if (byte != '$') break;  // noise between packets
        payload_.clear();
        too_long_ = bad_digit_ = false;
        sum_ = 0;
        state_ = State::kPayload;
        break;
      case State::kPayload:
        if (byte == '#') {
          state_ = State::kChecksumHigh;
          break;
        }
        if (byte == '$') {  // the peer gave the packet up and began again
          payload_.clear();
          too_long_ = false;
          sum_ = 0;
          break;
        }
        sum_ = static_cast<uint8_t>(sum_ + byte);
        if (byte == '}')
          state_ = State::kEscape;
        else
          store(static_cast<char>(byte));
        break;
      case State::kEscape:
        sum_ = static_cast<uint8_t>(sum_ + byte);
        store(static_cast<char>(byte ^ 0x20));
        state_ = State::kPayload;
        break;
      case State::kChecksumHigh: {
        auto digit = digit_value(static_cast<char>(byte));
        bad_digit_ = !digit;
        high_digit_ = digit.value_or(0);
        state_ = State::kChecksumLow;
        break;
      }
      case State::kChecksumLow: {
        auto digit = digit_value(static_cast<char>(byte));
        state_ = State::kIdle;
        if (bad_digit_ || !digit || too_long_ || static_cast<uint8_t>(high_digit_ << 4 | *digit) != sum_)
          return ParserEvent{Kind::kBadPacket, {}};
        return ParserEvent{Kind::kPacket, std::move(payload_)};
      }
    }
  }
  return std::nullopt;
}

std::string frame_packet(std::string_view payload) {
  uint8_t sum = 0;
  for (char c : payload) sum = static_cast<uint8_t>(sum + static_cast<uint8_t>(c));
  return fmt::format("${}#{:02x}", payload, sum);
}

std::string to_hex(std::span<const uint8_t> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (uint8_t byte : bytes) {
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

std::optional<std::vector<uint8_t>> from_hex(std::string_view text) {
  if (text.size() % 2 != 0) return std::nullopt;
  std::vector<uint8_t> bytes;
  bytes.reserve(text.size() / 2);
  for (size_t i = 0; i < text.size(); i += 2) {
    auto high = digit_value(text[i]), low = digit_value(text[i + 1]);
    if (!high || !low) return std::nullopt;
    bytes.push_back(static_cast<uint8_t>(*high << 4 | *low));
  }
  return bytes;
}

std::string escape_binary(std::string_view data) {
  std::string text;
  for (char c : data) {
    if (needs_escape(c)) {
      text.push_back('}');
      text.push_back(static_cast<char>(c ^ 0x20));
    } else {
      text.push_back(c);
    }
  }
  return text;
}

std::optional<uint64_t> take_hex(std::string_view& text) {
  uint64_t value = 0;
  size_t count = 0;
  for (; count < text.size(); ++count) {
    auto digit = digit_value(text[count]);
    if (!digit) break;
    if (count == 16) return std::nullopt;
    value = value << 4 | *digit;
  }
  if (count == 0) return std::nullopt;
  text.remove_prefix(count);
  return value;
}

bool take_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace rhea::debug
