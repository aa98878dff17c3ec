// SPDX-License-Identifier: Apache-2.0
// Names of field types and the checksum.
#include "state/format.h"

namespace rhea::state {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t remainder = i;
    for (int bit = 0; bit < 8; ++bit) remainder = (remainder >> 1) ^ ((remainder & 1) ? 0xedb88320u : 0);
    table[i] = remainder;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

}  // namespace

uint32_t crc32(std::span<const std::byte> data) {
  uint32_t remainder = 0xffffffff;
  for (std::byte byte : data) {
    remainder = kCrcTable[(remainder ^ std::to_integer<uint32_t>(byte)) & 0xff] ^ (remainder >> 8);
  }
  return ~remainder;
}

std::string_view field_type_name(FieldType type) {
  switch (type) {
    case FieldType::kU8: return "u8";
    case FieldType::kU16: return "u16";
    case FieldType::kU32: return "u32";
    case FieldType::kU64: return "u64";
    case FieldType::kI64: return "i64";
    case FieldType::kBool: return "bool";
    case FieldType::kBytes: return "bytes";
    case FieldType::kString: return "string";
    case FieldType::kSection: return "section";
    case FieldType::kU16Array: return "array of u16";
    case FieldType::kU32Array: return "array of u32";
    case FieldType::kU64Array: return "array of u64";
    case FieldType::kI64Array: return "array of i64";
  }
  return "unknown type";
}

}  // namespace rhea::state
