// SPDX-License-Identifier: Apache-2.0
// Which rows the host CPU can judge, and which can stand anywhere in a sequence.
#include "tests/isa/combos.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <set>
#include <string>

namespace rhea::tests::isa {

using rhea::isa::x86::CpuMode;
using rhea::isa::x86::RowId;
using rhea::isa::x86::RowInfo;
using rhea::isa::x86::Translation;

namespace {

struct Skip {
  std::string_view mnemonic, reason;
};

// What answers differently at every run, or depends on the operating system's tables.
constexpr std::array kSkippedMnemonics{
    Skip{"rdtsc", "not deterministic"},     Skip{"rdtscp", "not deterministic"},
    Skip{"rdpid", "the host's own"},        Skip{"rdpmc", "the host's own"},
    Skip{"rdrand", "not deterministic"},    Skip{"rdseed", "not deterministic"},
    Skip{"cpuid", "the model's own"},       Skip{"xgetbv", "the model's own"},
    Skip{"syscall", "enters the kernel"},   Skip{"sysenter", "enters the kernel"},
    Skip{"vmcall", "enters a hypervisor"},  Skip{"vmmcall", "enters a hypervisor"},
    Skip{"monitor", "the host's own"},      Skip{"mwait", "the host's own"},
    Skip{"xsaveopt", "not deterministic"},  Skip{"sgdt", "the kernel emulates it"},
    Skip{"sidt", "the kernel emulates it"}, Skip{"sldt", "the kernel emulates it"},
    Skip{"str", "the kernel emulates it"},  Skip{"smsw", "the kernel emulates it"},
};
std::set<std::string, std::less<>> host_flags() {
  std::set<std::string, std::less<>> flags;
  std::ifstream file("/proc/cpuinfo");
  std::string word;
  while (file >> word && word != "flags") {
  }
  std::getline(file, word);
  size_t at = 0;
  while ((at = word.find_first_not_of(" :", at)) != std::string::npos) {
    const size_t end = std::min(word.find(' ', at), word.size());
    flags.insert(word.substr(at, end - at));
    at = end;
  }
  return flags;
}

// Linux names a few features differently; what it does not list at all is taken as present.
bool host_has(const std::set<std::string, std::less<>>& flags, std::string_view features) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kLinuxNames{
      {{"pclmulqdq", "pclmulqdq"},
       {"lzcnt", "abm"},
       {"sse3", "pni"},
       {"sha", "sha_ni"},
       {"cmpxchg16b", "cx16"},
       {"prefetchw", "3dnowprefetch"}}};
  static constexpr std::string_view kListed[] = {
      "sse",    "sse2",   "pni",      "ssse3",     "sse4_1",  "sse4_2",     "avx",      "avx2",
      "fma",    "f16c",   "aes",      "pclmulqdq", "vaes",    "vpclmulqdq", "bmi1",     "bmi2",
      "abm",    "movbe",  "popcnt",   "adx",       "sha_ni",  "gfni",       "fsgsbase", "cx16",
      "xsavec", "xsaves", "avx_vnni", "sse4a",     "movdiri", "movdir64b",  "serialize"};
  while (!features.empty()) {
    const size_t plus = std::min(features.find('+'), features.size());
    std::string_view name = features.substr(0, plus);
    features.remove_prefix(std::min(plus + 1, features.size()));
    for (const auto& [ours, theirs] : kLinuxNames)
      if (name == ours) name = theirs;
    const bool listed =
        name.starts_with("avx512") || std::find(std::begin(kListed), std::end(kListed), name) != std::end(kListed);
    if (listed && !flags.contains(name)) return false;
  }
  return true;
}

std::string_view skip_reason(const RowInfo& info, const std::set<std::string, std::less<>>& flags) {
  for (const Skip& skip : kSkippedMnemonics)
    if (info.mnemonic.substr(0, info.mnemonic.find('|')) == skip.mnemonic) return skip.reason;
  if (!host_has(flags, info.feature)) return "not on this host";
  return "";
}

bool is_filler(const RowInfo& info) {
  if (info.privileged) return false;
  switch (info.translation) {
    case Translation::kCopy:
    case Translation::kCopyX87:
    case Translation::kShiftCl:
    case Translation::kCopyRcx:
    case Translation::kNop:
    case Translation::kLea:
    case Translation::kMovGpr:
    case Translation::kXchgAcc:
    case Translation::kPush:
    case Translation::kPop:
    case Translation::kPusha:
    case Translation::kPopa:
    case Translation::kPushf:
    case Translation::kString:
    case Translation::kFlagOps:
    case Translation::kCld:
    case Translation::kStd:
    case Translation::kMaskMem:
    case Translation::kBitString: break;
    default: return false;
  }
  return info.mnemonic != "ldmxcsr" && info.mnemonic != "vldmxcsr";
}

bool is_everyday(const RowInfo& info) {
  switch (info.translation) {
    case Translation::kCopy:
    case Translation::kShiftCl: return info.feature.empty() && info.map <= 1;
    case Translation::kMovGpr:
    case Translation::kLea:
    case Translation::kPush:
    case Translation::kPop: return true;
    default: return false;
  }
}

}  // namespace

std::vector<Combo> all_combos() {
  const auto flags = host_flags();
  std::vector<Combo> combos;
  for (const CpuMode mode : {CpuMode::k64, CpuMode::k32}) {
    for (unsigned i = 0; i < rhea::isa::x86::row_count(); ++i) {
      const auto row = static_cast<RowId>(i);
      const RowInfo& info = rhea::isa::x86::row_info(row);
      for (const auto& form : rhea::isa::x86::forms(row, mode)) {
        Combo combo{.row = row, .form = form, .mode = mode, .skip = skip_reason(info, flags)};
        combo.filler = combo.skip.empty() && is_filler(info);
        combo.everyday = combo.filler && is_everyday(info);
        combos.push_back(combo);
      }
    }
  }
  return combos;
}

}  // namespace rhea::tests::isa
