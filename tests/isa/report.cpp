// SPDX-License-Identifier: Apache-2.0
// Reports are meant to be pasted: they hold all that is needed to see the bug.
#include "tests/isa/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "isa/x86/disasm.h"
#include "isa/x86/insn.h"
#include "isa/x86/rows.h"

namespace rhea::tests::isa {

using rhea::isa::x86::CpuMode;
using rhea::isa::x86::Insn;

std::string listing(const TestCase& test_case, const Input& input) {
  const Program& program = test_case.program;
  const CpuMode mode = program.mode32 ? CpuMode::k32 : CpuMode::k64;
  const std::vector<uint64_t> addresses = layout(program);
  std::string text;
  uint8_t section = 0;
  for (size_t i = 0; i < program.items.size(); ++i) {
    const Item& item = program.items[i];
    if (item.dropped) continue;
    if (item.section != section) text += "  subroutine:\n";
    section = item.section;
    const std::span<const uint8_t> rest = code_at(program, input, addresses[i]);
    const std::span<const uint8_t> code = rest.first(std::min<size_t>(item.length, rest.size()));
    std::string bytes;
    for (const uint8_t byte : code) bytes += fmt::format("{:02x}", byte);
    Insn insn;
    const bool decoded = decode(code, mode, insn) == rhea::isa::x86::DecodeStatus::kOk;
    text +=
        fmt::format("  {:x}: {:<30} {}\n", addresses[i], bytes,
                    decoded ? rhea::isa::x86::disassemble(insn, addresses[i]) : std::string("(cut off or invalid)"));
  }
  return text;
}

std::string report(const Finding& finding, std::string_view config) {
  const TestCase& test_case = finding.test_case;
  std::string text =
      fmt::format("FAIL {} {} seed {} case {} config {}\n", rhea::isa::x86::row_info(test_case.row).name,
                  test_case.program.mode32 ? "32-bit" : "64-bit", test_case.seed, test_case.number, config);
  text += listing(test_case, finding.input);
  const bool vectors =
      std::any_of(finding.differences.begin(), finding.differences.end(), [](const Difference& difference) {
        return difference.field.find_first_of("xmystf") == 0 && !difference.field.starts_with("memory stack") &&
               !difference.field.starts_with("fs");
      });
  text += "before:\n" + describe(finding.input.state, test_case.program.mode32, vectors);
  text += "expected: " + describe(finding.expected.outcome) + "\n" +
          describe(finding.expected.state, test_case.program.mode32, vectors);
  text += "actual:   " + describe(finding.actual.outcome) + "\n";
  text += "differences (expected, actual):\n";
  for (const Difference& difference : finding.differences)
    text += fmt::format("  {:<24} {} {}\n", difference.field, difference.expected, difference.actual);
  return text;
}

}  // namespace rhea::tests::isa
