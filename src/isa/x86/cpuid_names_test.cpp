// SPDX-License-Identifier: Apache-2.0
// Feature names: unique, ordered, known for every row, and in agreement with the host's /proc/cpuinfo.
#include "isa/x86/cpuid_names.h"

#include <cpuid.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <tuple>

#include "isa/x86/rows.h"

namespace rhea::isa::x86 {
namespace {

TEST(CpuidNames, UniqueAndOrdered) {
  std::set<std::string_view> names;
  std::tuple<uint32_t, uint32_t, CpuidOutput, unsigned> last{};
  for (const CpuidFeature& feature : cpuid_features()) {
    EXPECT_TRUE(names.insert(feature.name).second) << feature.name;
    const std::tuple<uint32_t, uint32_t, CpuidOutput, unsigned> place{feature.leaf, feature.subleaf, feature.output,
                                                                      feature.bit};
    EXPECT_LT(last, place) << feature.name;
    last = place;
    EXPECT_EQ(cpuid_bit_name(feature.leaf, feature.subleaf, feature.output, feature.bit), feature.name);
  }
  EXPECT_EQ(find_cpuid_feature("lzcnt")->name, "abm");
  EXPECT_EQ(find_cpuid_feature("no such feature"), nullptr);
  EXPECT_EQ(cpuid_bit_name(1, 0, CpuidOutput::kEcx, 16), "");
}

TEST(CpuidNames, EveryRowsFeatureIsKnown) {
  for (unsigned id = 0; id < row_count(); ++id) {
    std::string_view rest = row_info(static_cast<RowId>(id)).feature;
    while (!rest.empty()) {
      const size_t end = std::min(rest.find('+'), rest.size());
      EXPECT_NE(find_cpuid_feature(rest.substr(0, end)), nullptr) << row_info(static_cast<RowId>(id)).name;
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }
}

// What Linux calls present is present under the same name: catches a wrong bit number.
TEST(CpuidNames, AgreeWithTheHostKernel) {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && !line.starts_with("flags")) {
  }
  if (line.empty()) GTEST_SKIP() << "no flags in /proc/cpuinfo";
  std::istringstream words(line.substr(line.find(':') + 1));
  std::string word;
  unsigned compared = 0;
  // Names that Linux also gives to what software adds, or clears together with another bit.
  const std::set<std::string> synthetic = {"nopl", "arat", "ibrs", "ibpb", "stibp", "ssbd"};
  while (words >> word) {
    const CpuidFeature* feature = find_cpuid_feature(word);
    if (!feature || synthetic.contains(word) || feature->leaf == 0x40000001) continue;
    unsigned registers[4] = {};
    ASSERT_TRUE(
        __get_cpuid_count(feature->leaf, feature->subleaf, &registers[0], &registers[1], &registers[2], &registers[3]))
        << word;
    EXPECT_TRUE(registers[static_cast<unsigned>(feature->output)] >> feature->bit & 1) << word;
    ++compared;
  }
  EXPECT_GT(compared, 20u);
}

}  // namespace
}  // namespace rhea::isa::x86
