// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/case.h"

#include <algorithm>

namespace rhea::tests::hostile {

Case parse_case(std::span<const uint8_t> bytes) {
  Case value;
  auto byte = [&](size_t at) -> uint8_t { return at < bytes.size() ? bytes[at] : 0; };
  value.mode = static_cast<Mode>(byte(0) % static_cast<unsigned>(Mode::kCount));
  value.choices = byte(1);
  for (unsigned i = 0; i < 8; ++i) value.seed |= uint64_t{byte(2 + i)} << (8 * i);
  if (bytes.size() > kHeaderBytes) {
    const auto code = bytes.subspan(kHeaderBytes, std::min(bytes.size() - kHeaderBytes, kMaxCodeBytes));
    value.code.assign(code.begin(), code.end());
  }
  return value;
}

std::vector<uint8_t> to_bytes(const Case& value) {
  std::vector<uint8_t> bytes{static_cast<uint8_t>(value.mode), value.choices};
  for (unsigned i = 0; i < 8; ++i) bytes.push_back(static_cast<uint8_t>(value.seed >> (8 * i)));
  bytes.insert(bytes.end(), value.code.begin(), value.code.end());
  return bytes;
}

std::optional<Mode> mode_named(std::string_view name) {
  const auto found = std::ranges::find(kModeNames, name);
  if (found == kModeNames.end()) return std::nullopt;
  return static_cast<Mode>(found - kModeNames.begin());
}

std::span<const uint8_t> code_of(const Case& value, unsigned index) {
  const std::span<const uint8_t> all = value.code;
  if (value.choices & kSameCode) return all;
  const size_t part = all.size() / kVcpus;
  return all.subspan(index * part, index + 1 == kVcpus ? all.size() - index * part : part);
}

}  // namespace rhea::tests::hostile
