// SPDX-License-Identifier: Apache-2.0
// Parsing of what users type.
#include "base/strings.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/numeric.h"

namespace rhea::base {
namespace {

constexpr size_t kLongestWord = 64;  // names are short; keeps the distance table small on hostile input

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// Optimal string alignment distance.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), previous(b.size() + 1), current(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) previous[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool same = lower(a[i - 1]) == lower(b[j - 1]);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (same ? 0 : 1)});
      if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) && lower(a[i - 2]) == lower(b[j - 1])) {
        current[j] = std::min(current[j], before[j - 2] + 1);
      }
    }
    std::swap(before, previous);
    std::swap(previous, current);
  }
  return previous[b.size()];
}

// User text for an error message: bounded, and control characters shown as '?'.
std::string shown(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, kLongestWord)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  if (text.size() > kLongestWord) out += "...";
  return out;
}

}  // namespace

std::optional<std::string_view> closest_match(std::string_view word, std::span<const std::string_view> candidates) {
  if (word.empty() || word.size() > kLongestWord) return std::nullopt;
  std::optional<std::string_view> best;
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  for (std::string_view candidate : candidates) {
    if (candidate.size() > kLongestWord) continue;
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates) {
  const auto match = closest_match(word, candidates);
  return match ? fmt::format(" (did you mean '{}'?)", *match) : std::string();
}

Result<uint64_t> parse_unsigned(std::string_view text) {
  std::string_view digits = text;
  int base = 10;
  if (digits.starts_with("0x") || digits.starts_with("0X")) {
    digits.remove_prefix(2);
    base = 16;
  }
  uint64_t value = 0;
  const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (problem == std::errc::result_out_of_range) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("'{}' is too large a number", shown(text)));
  }
  if (problem != std::errc() || end != digits.data() + digits.size()) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("'{}' is not a number", shown(text)));
  }
  return value;
}

Result<uint64_t> parse_size(std::string_view text) {
  auto malformed = [&] {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("'{}' is not a size (expected a number with K, M, G or T, such as 512M)", shown(text)));
  };
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  if (digits == 0) return malformed();
  std::string unit;
  if (text.size() - digits > 3) return malformed();
  for (char c : text.substr(digits)) unit += lower(c);

  unsigned shift = 0;
  if (!unit.empty() && unit != "b") {
    const size_t power = std::string_view("kmgtp").find(unit[0]);
    const std::string_view rest = std::string_view(unit).substr(1);
    if (power == std::string_view::npos || !(rest.empty() || rest == "b" || rest == "ib")) return malformed();
    shift = static_cast<unsigned>(power + 1) * 10;
  }
  uint64_t count = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + digits, count);
  const auto bytes = checked_mul<uint64_t>(count, uint64_t{1} << shift);
  if (parsed.ec != std::errc() || !bytes) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("size '{}' is too large", shown(text)));
  }
  return *bytes;
}

std::string format_size(uint64_t bytes) {
  static constexpr std::string_view kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  size_t unit = 0;
  while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{} {}", bytes, kUnits[unit]);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  if (text.empty()) return pieces;
  for (;;) {
    const size_t at = text.find(separator);
    pieces.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return pieces;
    text.remove_prefix(at + 1);
  }
}

}  // namespace rhea::base
