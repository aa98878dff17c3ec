// SPDX-License-Identifier: Apache-2.0
// Bounds-checked little-endian reads from a file that nobody trusts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace rhea::machine {

class ByteView {
 public:
  ByteView() = default;
  explicit ByteView(std::span<const std::byte> bytes) : bytes_(bytes) {}

  size_t size() const { return bytes_.size(); }
  std::span<const std::byte> span() const { return bytes_; }

  bool contains(uint64_t offset, uint64_t length_bytes) const {
    return offset <= bytes_.size() && length_bytes <= bytes_.size() - offset;
  }
  // The bytes [offset, offset+length), or nothing if they are not all there.
  std::optional<std::span<const std::byte>> slice(uint64_t offset, uint64_t length_bytes) const {
    if (!contains(offset, length_bytes)) return std::nullopt;
    return bytes_.subspan(offset, length_bytes);
  }
  // An integer; nothing if it is not wholly inside.
  template <class T>
  std::optional<T> get(uint64_t offset) const {
    if (!contains(offset, sizeof(T))) return std::nullopt;
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof(T));
    return value;
  }
  // For fields whose containing structure was checked already; zero outside.
  uint8_t u8(uint64_t offset) const { return get<uint8_t>(offset).value_or(0); }
  uint16_t u16(uint64_t offset) const { return get<uint16_t>(offset).value_or(0); }
  uint32_t u32(uint64_t offset) const { return get<uint32_t>(offset).value_or(0); }
  uint64_t u64(uint64_t offset) const { return get<uint64_t>(offset).value_or(0); }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace rhea::machine
