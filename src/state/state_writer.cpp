// SPDX-License-Identifier: Apache-2.0
// Encoding of sections and fields.
#include "state/state_writer.h"

#include <limits>

#include "base/check.h"
#include "base/endian.h"

namespace rhea::state {

StateWriter::StateWriter(std::string_view name, uint32_t version) {
  out_.resize(kHeaderBytes);
  std::memcpy(out_.data(), kMagic.data(), kMagic.size());
  base::store_le<uint32_t>(out_.data() + 8, kFormatVersion);
  RHEA_CHECK(!name.empty() && name.size() <= kMaxNameBytes);
  put(name.size(), 1);
  put_raw(std::as_bytes(std::span(name)));
  open_.push_back({.length_at = 0, .version = version, .names = {}});
  put(version, 4);
}

void StateWriter::put(uint64_t value, size_t size_bytes) {
  for (size_t i = 0; i < size_bytes; ++i) out_.push_back(static_cast<std::byte>(value >> (8 * i)));
}

void StateWriter::put_raw(std::span<const std::byte> data) { out_.insert(out_.end(), data.begin(), data.end()); }

void StateWriter::begin_field(FieldType type, std::string_view name, size_t length) {
  RHEA_CHECK(!name.empty() && name.size() <= kMaxNameBytes);
  RHEA_CHECK(length <= std::numeric_limits<uint32_t>::max());
  RHEA_CHECK(open_.back().names.emplace(name).second);  // a name is given once per section
  put(static_cast<uint8_t>(type), 1);
  put(name.size(), 1);
  put_raw(std::as_bytes(std::span(name)));
  put(length, 4);
}

void StateWriter::begin_section(std::string_view name, uint32_t version) {
  RHEA_CHECK(open_.size() < kMaxDepth);
  begin_field(FieldType::kSection, name, 0);
  open_.push_back({.length_at = out_.size() - 4, .version = version, .names = {}});
  put(version, 4);
}

void StateWriter::end_section() {
  RHEA_CHECK(open_.size() > 1);
  const size_t at = open_.back().length_at;
  const size_t length = out_.size() - (at + 4);
  RHEA_CHECK(length <= std::numeric_limits<uint32_t>::max());
  base::store_le<uint32_t>(out_.data() + at, static_cast<uint32_t>(length));
  open_.pop_back();
}

std::vector<std::byte> StateWriter::finish() && {
  RHEA_CHECK(open_.size() == 1);
  base::store_le<uint64_t>(out_.data() + 16, out_.size() - kHeaderBytes);
  put(crc32(out_), 4);
  return std::move(out_);
}

}  // namespace rhea::state
