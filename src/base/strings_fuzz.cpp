// SPDX-License-Identifier: Apache-2.0
// Fuzzes the parsers of what users type.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/strings.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::base;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto bytes = parse_size(text)) {
    // What was understood prints as a size that is understood as the same ("1 GiB" with the blank taken out).
    std::string printed = format_size(*bytes);
    if (const size_t unit = printed.find(" bytes"); unit != std::string::npos) printed.resize(unit);
    std::erase(printed, ' ');
    if (*bytes >> 60 == 0 && parse_size(printed) != *bytes) __builtin_trap();
  }
  (void)parse_unsigned(text);
  constexpr std::string_view kCandidates[] = {"kernel", "initrd", "append", "memory", "cpus"};
  (void)did_you_mean(text, kCandidates);
  if (text.size() < 200 && split(text, ',').size() > text.size() + 1) __builtin_trap();
  return 0;
}
