// SPDX-License-Identifier: Apache-2.0
// One hostile guest as a string of bytes: mode, choices, a seed for registers and tables, then the code of its vCPUs.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rhea::tests::hostile {

enum class Mode : uint8_t {
  kReal,
  kProtected16,
  kProtected32,
  kPaging32,
  kPae,
  kVirtual8086,
  kCompatibility,
  kLongUser,
  kLongKernel,
  kMixed,  // each vCPU in a mode of its own, chosen by the seed
  kCount
};
inline constexpr std::array<std::string_view, static_cast<size_t>(Mode::kCount)> kModeNames{
    "real",        "protected16",   "protected32", "paging32",    "pae",
    "virtual8086", "compatibility", "long-user",   "long-kernel", "mixed"};

enum Choice : uint8_t {
  kSameCode = 1,            // all vCPUs start at the same code instead of a quarter each
  kReference = 2,           // the engine's reference mode
  kSmallCache = 4,          // the smallest code cache: it is flushed now and then
  kSmallTlb = 8,            // 16 entries
  kDisks = 16,              // a disk and a source of entropy, with threads of their own
  kReboot = 32,             // a reset starts the machine anew instead of ending it
  kRandomTables = 64,       // descriptors and page tables are damaged at random
  kStrangeRegisters = 128,  // control registers, MSRs and segments other than a system would set
};

struct Case {
  Mode mode = Mode::kReal;
  uint8_t choices = 0;
  uint64_t seed = 0;
  std::vector<uint8_t> code;
};

inline constexpr unsigned kVcpus = 4;
inline constexpr size_t kHeaderBytes = 10, kMaxCodeBytes = 4096, kMaxCaseBytes = kHeaderBytes + kMaxCodeBytes;

// Every string of bytes is a case: what is missing is zero, what is too long is cut.
Case parse_case(std::span<const uint8_t> bytes);
std::vector<uint8_t> to_bytes(const Case& value);

std::optional<Mode> mode_named(std::string_view name);

// The code that vCPU `index` starts with.
std::span<const uint8_t> code_of(const Case& value, unsigned index);

}  // namespace rhea::tests::hostile
