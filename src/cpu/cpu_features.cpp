// SPDX-License-Identifier: Apache-2.0
// The feature table. [SDM-2A CPUID] [APM-3 E]
//
// Deliberately absent: monitor, the AMX family, rtm/hle, vmx/svm, pku, la57, cet, performance monitoring, waitpkg.
// An instruction whose feature is absent raises #UD, so a guest finds out what CPUID told it.
#include "cpu/cpu_features.h"

#include "isa/x86/cpuid_names.h"

namespace rhea::cpu {

namespace {

constexpr auto kEax = CpuidRegister::kEax;
constexpr auto kEbx = CpuidRegister::kEbx;
constexpr auto kEcx = CpuidRegister::kEcx;
constexpr auto kEdx = CpuidRegister::kEdx;
constexpr auto kHost = Provider::kHost;
constexpr auto kEngine = Provider::kEngine;

// clang-format off
constexpr Feature kFeatures[] = {
  // leaf 1 EDX
  {"fpu",         1, 0, kEdx, 0,  kHost,   Level::kV2},
  {"vme",         1, 0, kEdx, 1,  kEngine, Level::kV2},
  {"de",          1, 0, kEdx, 2,  kEngine, Level::kV2},
  {"pse",         1, 0, kEdx, 3,  kEngine, Level::kV2},
  {"tsc",         1, 0, kEdx, 4,  kEngine, Level::kV2},
  {"msr",         1, 0, kEdx, 5,  kEngine, Level::kV2},
  {"pae",         1, 0, kEdx, 6,  kEngine, Level::kV2},
  {"mce",         1, 0, kEdx, 7,  kEngine, Level::kV2},
  {"cx8",         1, 0, kEdx, 8,  kHost,   Level::kV2},
  {"apic",        1, 0, kEdx, 9,  kEngine, Level::kV2},
  {"sep",         1, 0, kEdx, 11, kEngine, Level::kV2},
  {"mtrr",        1, 0, kEdx, 12, kEngine, Level::kV2},
  {"pge",         1, 0, kEdx, 13, kEngine, Level::kV2},
  {"mca",         1, 0, kEdx, 14, kEngine, Level::kV2},
  {"cmov",        1, 0, kEdx, 15, kHost,   Level::kV2},
  {"pat",         1, 0, kEdx, 16, kEngine, Level::kV2},
  {"pse36",       1, 0, kEdx, 17, kEngine, Level::kV2},
  {"clflush",     1, 0, kEdx, 19, kHost,   Level::kV2},
  {"mmx",         1, 0, kEdx, 23, kHost,   Level::kV2},
  {"fxsr",        1, 0, kEdx, 24, kHost,   Level::kV2},
  {"sse",         1, 0, kEdx, 25, kHost,   Level::kV2},
  {"sse2",        1, 0, kEdx, 26, kHost,   Level::kV2},
  {"ss",          1, 0, kEdx, 27, kEngine, Level::kSmp},
  {"ht",          1, 0, kEdx, 28, kEngine, Level::kSmp},
  // leaf 1 ECX
  {"sse3",        1, 0, kEcx, 0,  kHost,   Level::kV2},
  {"pclmulqdq",   1, 0, kEcx, 1,  kHost,   Level::kV3},
  {"ssse3",       1, 0, kEcx, 9,  kHost,   Level::kV2},
  {"fma",         1, 0, kEcx, 12, kHost,   Level::kV3},
  {"cx16",        1, 0, kEcx, 13, kHost,   Level::kV2},
  {"pcid",        1, 0, kEcx, 17, kEngine, Level::kV2},
  {"sse4_1",      1, 0, kEcx, 19, kHost,   Level::kV2},
  {"sse4_2",      1, 0, kEcx, 20, kHost,   Level::kV2},
  {"x2apic",      1, 0, kEcx, 21, kEngine, Level::kV2},
  {"movbe",       1, 0, kEcx, 22, kHost,   Level::kV3},
  {"popcnt",      1, 0, kEcx, 23, kHost,   Level::kV2},
  {"tsc_deadline_timer", 1, 0, kEcx, 24, kEngine, Level::kV2},
  {"aes",         1, 0, kEcx, 25, kHost,   Level::kV3},
  {"xsave",       1, 0, kEcx, 26, kHost,   Level::kV3},
  {"avx",         1, 0, kEcx, 28, kHost,   Level::kV3},
  {"f16c",        1, 0, kEcx, 29, kHost,   Level::kV3},
  {"rdrand",      1, 0, kEcx, 30, kHost,   Level::kV3},
  {"hypervisor",  1, 0, kEcx, 31, kEngine, Level::kV2},
  // leaf 6 EAX
  {"arat",        6, 0, kEax, 2,  kEngine, Level::kV2},
  // leaf 7 EBX
  {"fsgsbase",    7, 0, kEbx, 0,  kEngine, Level::kV2},
  {"tsc_adjust",  7, 0, kEbx, 1,  kEngine, Level::kV2},
  {"bmi1",        7, 0, kEbx, 3,  kHost,   Level::kV3},
  {"avx2",        7, 0, kEbx, 5,  kHost,   Level::kV3},
  {"fdp_excptn_only", 7, 0, kEbx, 6, kHost, Level::kInherit},
  {"smep",        7, 0, kEbx, 7,  kEngine, Level::kV2},
  {"bmi2",        7, 0, kEbx, 8,  kHost,   Level::kV3},
  {"erms",        7, 0, kEbx, 9,  kHost,   Level::kV3},
  {"invpcid",     7, 0, kEbx, 10, kEngine, Level::kV2},
  {"zero_fcs_fds", 7, 0, kEbx, 13, kHost,  Level::kInherit},
  {"rdseed",      7, 0, kEbx, 18, kHost,   Level::kMax},
  {"adx",         7, 0, kEbx, 19, kHost,   Level::kMax},
  {"avx512f",     7, 0, kEbx, 16, kHost,   Level::kAvx512},
  {"avx512dq",    7, 0, kEbx, 17, kHost,   Level::kAvx512},
  {"avx512ifma",  7, 0, kEbx, 21, kHost,   Level::kAvx512},
  {"avx512cd",    7, 0, kEbx, 28, kHost,   Level::kAvx512},
  {"avx512bw",    7, 0, kEbx, 30, kHost,   Level::kAvx512},
  {"avx512vl",    7, 0, kEbx, 31, kHost,   Level::kAvx512},
  {"smap",        7, 0, kEbx, 20, kEngine, Level::kV2},
  {"clflushopt",  7, 0, kEbx, 23, kHost,   Level::kMax},
  {"clwb",        7, 0, kEbx, 24, kHost,   Level::kMax},
  {"sha_ni",      7, 0, kEbx, 29, kHost,   Level::kMax},
  // leaf 7 ECX
  {"avx512vbmi",  7, 0, kEcx, 1,  kHost,   Level::kAvx512},
  {"avx512_vbmi2", 7, 0, kEcx, 6, kHost,   Level::kAvx512},
  {"avx512_vnni", 7, 0, kEcx, 11, kHost,   Level::kAvx512},
  {"avx512_bitalg", 7, 0, kEcx, 12, kHost, Level::kAvx512},
  {"avx512_vpopcntdq", 7, 0, kEcx, 14, kHost, Level::kAvx512},
  {"umip",        7, 0, kEcx, 2,  kEngine, Level::kV2},
  {"gfni",        7, 0, kEcx, 8,  kHost,   Level::kMax},
  {"vaes",        7, 0, kEcx, 9,  kHost,   Level::kMax},
  {"vpclmulqdq",  7, 0, kEcx, 10, kHost,   Level::kMax},
  {"rdpid",       7, 0, kEcx, 22, kEngine, Level::kV2},
  {"cldemote",    7, 0, kEcx, 25, kHost,   Level::kMax},
  {"movdiri",     7, 0, kEcx, 27, kHost,   Level::kMax},
  {"movdir64b",   7, 0, kEcx, 28, kHost,   Level::kMax},
  // leaf 7 EDX
  {"fsrm",        7, 0, kEdx, 4,  kHost,   Level::kMax},
  {"avx512_fp16", 7, 0, kEdx, 23, kHost,   Level::kAvx512},
  {"serialize",   7, 0, kEdx, 14, kHost,   Level::kMax},
  {"spec_ctrl",   7, 0, kEdx, 26, kEngine, Level::kV2},
  {"arch_capabilities", 7, 0, kEdx, 29, kEngine, Level::kV2},
  // leaf 7.1 EAX
  {"avx_vnni",    7, 1, kEax, 4,  kHost,   Level::kMax},
  {"avx512_bf16", 7, 1, kEax, 5,  kHost,   Level::kAvx512},
  // leaf 0xD.1 EAX
  {"xsaveopt",    0xd, 1, kEax, 0, kHost,  Level::kV3},
  {"xsavec",      0xd, 1, kEax, 1, kHost,  Level::kMax},
  {"xgetbv1",     0xd, 1, kEax, 2, kHost,  Level::kMax},
  {"xsaves",      0xd, 1, kEax, 3, kHost,  Level::kMax},
  // leaf 0x40000001: of KVM's paravirtual interface
  {"kvm_nop_io_delay", 0x40000001, 0, kEax, 1, kEngine, Level::kV2},
  {"kvm_clocksource2", 0x40000001, 0, kEax, 3, kEngine, Level::kV2},
  {"kvm_pv_unhalt", 0x40000001, 0, kEax, 7, kEngine, Level::kSmp},
  {"kvm_pv_send_ipi", 0x40000001, 0, kEax, 11, kEngine, Level::kSmp},
  {"kvm_clocksource_stable", 0x40000001, 0, kEax, 24, kEngine, Level::kV2},
  // leaf 0x80000001
  {"syscall",     0x80000001, 0, kEdx, 11, kEngine, Level::kV2},
  {"nx",          0x80000001, 0, kEdx, 20, kEngine, Level::kV2},
  {"pdpe1gb",     0x80000001, 0, kEdx, 26, kEngine, Level::kV2},
  {"rdtscp",      0x80000001, 0, kEdx, 27, kEngine, Level::kV2},
  {"lm",          0x80000001, 0, kEdx, 29, kEngine, Level::kV2},
  {"lahf_lm",     0x80000001, 0, kEcx, 0,  kHost,   Level::kV2},
  {"abm",         0x80000001, 0, kEcx, 5,  kHost,   Level::kV3},
  {"sse4a",       0x80000001, 0, kEcx, 6,  kHost,   Level::kMax},
  {"3dnowprefetch", 0x80000001, 0, kEcx, 8, kHost,  Level::kMax},
  {"topoext",     0x80000001, 0, kEcx, 22, kEngine, Level::kAmd},
  // leaf 0x80000007, 0x80000008
  {"invtsc",      0x80000007, 0, kEdx, 8,  kEngine, Level::kV2},
  {"xsaveerptr",  0x80000008, 0, kEbx, 2,  kHost,   Level::kInherit},
};

// clang-format on

static_assert(std::size(kFeatures) <= kMaxFeatures);

}  // namespace

std::span<const Feature> features() { return kFeatures; }

std::optional<size_t> find_feature(std::string_view name) {
  const isa::x86::CpuidFeature* known = isa::x86::find_cpuid_feature(name);
  if (known == nullptr) return std::nullopt;
  name = known->name;
  for (size_t i = 0; i < std::size(kFeatures); ++i)
    if (kFeatures[i].name == name) return i;
  return std::nullopt;
}

uint32_t& select(CpuidResult& result, CpuidRegister reg) {
  switch (reg) {
    case CpuidRegister::kEax: return result.eax;
    case CpuidRegister::kEbx: return result.ebx;
    case CpuidRegister::kEcx: return result.ecx;
    case CpuidRegister::kEdx: break;
  }
  return result.edx;
}

}  // namespace rhea::cpu
