// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/leak.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>

#ifndef __has_feature  // clang's word
#define __has_feature(feature) 0
#endif

namespace rhea::tests::hostile {
namespace {

// Sanitizers reserve terabytes as shadow: an address in there is none that anybody holds.
constexpr uint64_t kLargestMapping = uint64_t{1} << 40;

uint64_t word_at(std::span<const uint8_t> bytes, size_t at) {
  uint64_t word = 0;
  std::memcpy(&word, bytes.data() + at, 8);
  return word;
}

// Where position-independent programs, their heaps and mappings lie on x86-64 Linux. Under the address sanitizer the
// heap begins at round addresses, the same in each process: a few small numbers beside zeros make one, and nothing
// could tell it from a leak. There the mappings and the program are looked for; builds without it look for the heap,
// too.
bool looks_like_address(uint64_t word) {
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
  constexpr uint64_t kHeapStart = 0x5000'0000'0000, kProgramStart = 0x5400'0000'0000, kProgramEnd = 0x5700'0000'0000,
                     kMappingsStart = 0x7000'0000'0000;
  if (word >= kHeapStart && word < kProgramStart) return false;
  if (word >= kProgramEnd && word < kMappingsStart) return false;
#endif
  return word >> 44 >= 5 && word >> 47 == 0;
}

std::string mapping_of(uint64_t address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    char* rest = nullptr;
    const uint64_t start = std::strtoull(line.c_str(), &rest, 16);
    const uint64_t end = std::strtoull(rest + 1, nullptr, 16);
    const bool readable = line.find(" r") != std::string::npos;
    if (address >= start && address < end) return readable && end - start < kLargestMapping ? line : "";
  }
  return {};
}

bool stands_in(std::span<const uint8_t> program, uint64_t word) {
  uint8_t bytes[6];
  std::memcpy(bytes, &word, sizeof bytes);
  return std::search(program.begin(), program.end(), std::begin(bytes), std::end(bytes)) != program.end();
}

}  // namespace

std::string find_leak(const LeakQuery& query, const std::string& where) {
  for (size_t at = 0; at + 8 <= query.after.size(); at += query.step) {
    const uint64_t word = word_at(query.after, at);
    if (word == query.secret) return fmt::format("{} + {:#x} holds the secret word of the process", where, at);
    if (!looks_like_address(word)) continue;
    if (!query.before.empty() && word_at(query.before, at) == word) continue;
    if (stands_in(query.program, word)) continue;
    if (const std::string mapping = mapping_of(word); !mapping.empty())
      return fmt::format("{} + {:#x} holds {:#x}, an address of the process: {}", where, at, word, mapping);
  }
  return {};
}

}  // namespace rhea::tests::hostile
