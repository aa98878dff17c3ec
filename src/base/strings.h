// SPDX-License-Identifier: Apache-2.0
// Text that users type: sizes, lists, and "did you mean".
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace rhea::base {

// The candidate nearest to `word` by edit distance (swap of neighbours counts as one edit, case ignored),
// if near enough to be meant.
std::optional<std::string_view> closest_match(std::string_view word, std::span<const std::string_view> candidates);

// " (did you mean 'x'?)", or "" if nothing is near: to be appended to a message about an unknown name.
std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates);

// "512M", "4G", "1GiB", "64k", "4096": bytes. Suffixes K M G T P, with optional B or iB, any case, all powers
// of 1024. Errors: kInvalidArgument for malformed text or overflow.
Result<uint64_t> parse_size(std::string_view text);

// Decimal, or hexadecimal with 0x. Errors: kInvalidArgument.
Result<uint64_t> parse_unsigned(std::string_view text);

// Bytes with the largest exact unit: 1536 MiB -> "1536 MiB", 4096 -> "4 KiB".
std::string format_size(uint64_t bytes);

// The pieces between separators; an empty text has none.
std::vector<std::string_view> split(std::string_view text, char separator);

}  // namespace rhea::base
