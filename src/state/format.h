// SPDX-License-Identifier: Apache-2.0
// The wire format of machine state, shared by writer and reader. Described in docs/state-format.md.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

namespace rhea::state {

inline constexpr std::array<char, 8> kMagic = {'R', 'H', 'E', 'A', 'S', 'T', 'A', 'T'};
inline constexpr uint32_t kFormatVersion = 1;
inline constexpr size_t kHeaderBytes = 24;  // magic, format version, zero, length of the root section
inline constexpr size_t kTrailerBytes = 4;  // CRC-32 of everything before it
inline constexpr unsigned kMaxDepth = 16;   // of nested sections
inline constexpr size_t kMaxNameBytes = 255;

enum class FieldType : uint8_t {
  kU8 = 1,
  kU16 = 2,
  kU32 = 3,
  kU64 = 4,
  kI64 = 5,
  kBool = 6,
  kBytes = 7,
  kString = 8,
  kSection = 9,
  kU16Array = 0x82,
  kU32Array = 0x83,
  kU64Array = 0x84,
  kI64Array = 0x85,
};
std::string_view field_type_name(FieldType type);

// CRC-32 (IEEE 802.3, reflected, as in zip).
uint32_t crc32(std::span<const std::byte> data);

// How a scalar of C++ travels: unsigned integers by their size, all signed ones as i64, enums as what they
// are made of.
template <class T>
concept Scalar = (std::integral<T> || std::is_enum_v<T>) && sizeof(T) <= 8;

template <Scalar T>
constexpr FieldType scalar_type() {
  if constexpr (std::is_enum_v<T>) {
    return scalar_type<std::underlying_type_t<T>>();
  } else if constexpr (std::same_as<T, bool>) {
    return FieldType::kBool;
  } else if constexpr (std::is_signed_v<T>) {
    return FieldType::kI64;
  } else {
    return sizeof(T) == 1   ? FieldType::kU8
           : sizeof(T) == 2 ? FieldType::kU16
           : sizeof(T) == 4 ? FieldType::kU32
                            : FieldType::kU64;
  }
}
constexpr size_t scalar_bytes(FieldType type) {
  switch (type) {
    case FieldType::kU8:
    case FieldType::kBool: return 1;
    case FieldType::kU16:
    case FieldType::kU16Array: return 2;
    case FieldType::kU32:
    case FieldType::kU32Array: return 4;
    case FieldType::kU64:
    case FieldType::kI64:
    case FieldType::kU64Array:
    case FieldType::kI64Array: return 8;
    default: return 0;
  }
}

// Arrays of bytes are kBytes; arrays of bool travel as bytes too.
template <Scalar T>
constexpr FieldType array_type() {
  switch (scalar_type<T>()) {
    case FieldType::kU16: return FieldType::kU16Array;
    case FieldType::kU32: return FieldType::kU32Array;
    case FieldType::kU64: return FieldType::kU64Array;
    case FieldType::kI64: return FieldType::kI64Array;
    default: return FieldType::kBytes;
  }
}

// A struct that describes its fields once for both directions:
//   template <class Archive> static void describe(Archive& archive, auto& self) {
//     archive.field("count", self.count);
//   }
// (a static member, or a free function template `describe(archive, self)` found by argument).
template <class T, class Archive>
concept MemberDescribed = requires(Archive& archive, T& value) { std::remove_const_t<T>::describe(archive, value); };
template <class T, class Archive>
concept FreeDescribed = requires(Archive& archive, T& value) { describe(archive, value); };

template <class Archive, class T>
void describe_fields(Archive& archive, T& value) {
  if constexpr (MemberDescribed<T, Archive>) {
    std::remove_const_t<T>::describe(archive, value);
  } else {
    static_assert(FreeDescribed<T, Archive>, "the type needs a describe(archive, value)");
    describe(archive, value);
  }
}

// The version of a described struct's section: T::kStateVersion, 1 where it has none.
template <class T>
constexpr uint32_t described_version() {
  if constexpr (requires { T::kStateVersion; }) {
    return T::kStateVersion;
  } else {
    return 1;
  }
}

}  // namespace rhea::state
