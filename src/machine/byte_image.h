// SPDX-License-Identifier: Apache-2.0
// A growing little-endian byte image: what firmware tables and boot structures are written with.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/check.h"

namespace rhea::machine {

class ByteImage {
 public:
  ByteImage() = default;
  explicit ByteImage(size_t size_bytes) : bytes_(size_bytes) {}

  ByteImage& u8(uint8_t value) { return append(value, 1); }
  ByteImage& u16(uint16_t value) { return append(value, 2); }
  ByteImage& u32(uint32_t value) { return append(value, 4); }
  ByteImage& u64(uint64_t value) { return append(value, 8); }
  ByteImage& zeros(size_t count) {
    bytes_.resize(bytes_.size() + count);
    return *this;
  }
  ByteImage& bytes(std::span<const std::byte> data) {
    bytes_.insert(bytes_.end(), data.begin(), data.end());
    return *this;
  }
  ByteImage& text(std::string_view characters) { return bytes(std::as_bytes(std::span(characters))); }
  // Exactly `width` bytes, cut or filled with `fill`.
  ByteImage& padded_text(std::string_view characters, size_t width, char fill = ' ') {
    for (size_t i = 0; i < width; ++i) u8(static_cast<uint8_t>(i < characters.size() ? characters[i] : fill));
    return *this;
  }
  ByteImage& align(size_t alignment) {
    while (bytes_.size() % alignment != 0) bytes_.push_back({});
    return *this;
  }

  void put8(size_t offset, uint8_t value) { put(offset, value, 1); }
  void put16(size_t offset, uint16_t value) { put(offset, value, 2); }
  void put32(size_t offset, uint32_t value) { put(offset, value, 4); }
  void put64(size_t offset, uint64_t value) { put(offset, value, 8); }
  void put_bytes(size_t offset, std::span<const std::byte> data) {
    RHEA_CHECK(offset <= bytes_.size() && data.size() <= bytes_.size() - offset);
    std::copy(data.begin(), data.end(), bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
  }

  // Stores at `offset` the byte that makes the sum of [begin, begin+length) zero modulo 256.
  void put_checksum(size_t offset, size_t begin, size_t length) {
    put8(offset, 0);
    uint8_t sum = 0;
    for (size_t i = begin; i < begin + length; ++i) sum = static_cast<uint8_t>(sum + static_cast<uint8_t>(bytes_[i]));
    put8(offset, static_cast<uint8_t>(-sum));
  }

  size_t size() const { return bytes_.size(); }
  std::span<const std::byte> span() const { return bytes_; }
  const std::vector<std::byte>& vector() const { return bytes_; }

 private:
  ByteImage& append(uint64_t value, unsigned size_bytes) {
    for (unsigned i = 0; i < size_bytes; ++i) bytes_.push_back(static_cast<std::byte>(value >> (8 * i)));
    return *this;
  }
  void put(size_t offset, uint64_t value, unsigned size_bytes) {
    RHEA_CHECK(offset + size_bytes <= bytes_.size());
    for (unsigned i = 0; i < size_bytes; ++i) bytes_[offset + i] = static_cast<std::byte>(value >> (8 * i));
  }

  std::vector<std::byte> bytes_;
};

}  // namespace rhea::machine
