// SPDX-License-Identifier: Apache-2.0
// CPU models against made-up hosts and against the real one.
#include "cpu/cpu_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <tuple>

#include "cpu/cpu_features.h"
#include "isa/x86/cpuid_names.h"

namespace rhea::cpu {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kTscHz = 2'600'002'000;

// An Intel host that has every bit of every leaf, whether or not it means anything.
struct FakeHost {
  std::map<std::pair<uint32_t, uint32_t>, CpuidResult> leaves;
  uint64_t xcr0 = 0xe7;

  FakeHost() {
    leaves[{0, 0}] = {.eax = 0x24, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69};
    leaves[{0x80000000, 0}] = {.eax = 0x80000021};
    for (uint32_t leaf : {1u, 6u, 7u, 0x80000001u, 0x80000007u}) leaves[{leaf, 0}] = {~0u, ~0u, ~0u, ~0u};
    leaves[{7, 1}] = {~0u, ~0u, ~0u, ~0u};
    leaves[{1, 0}].eax = 0x000a0671;
    leaves[{0xd, 0}] = {.eax = 0x600e7, .ebx = 0x2b00, .ecx = 0x2b00};
    leaves[{0xd, 1}] = {.eax = 0x1f, .ebx = 0x29c0};
    leaves[{0xd, 2}] = {.eax = 0x100, .ebx = 0x240};
    leaves[{0x80000008, 0}] = {.eax = 0x3930};
  }
  void make_amd() { leaves[{0, 0}] = {.eax = 0x10, .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65}; }
  void remove(std::string_view name) {
    const Feature& feature = features()[*find_feature(name)];
    select(leaves[{feature.leaf, feature.subleaf}], feature.reg) &= ~(1u << feature.bit);
  }
  HostCpu host() const {
    return {.cpuid =
                [this](uint32_t leaf, uint32_t subleaf) {
                  auto at = leaves.find({leaf, subleaf});
                  return at == leaves.end() ? CpuidResult{} : at->second;
                },
            .xcr0 = xcr0};
  }
  Result<CpuModel> model(const std::string& name, unsigned cpus = 1) const {
    return CpuModel::create({.name = name, .tsc_frequency_hz = kTscHz, .cpu_count = cpus}, host());
  }
};

TEST(CpuModel, UnknownNameSuggestsTheNearest) {
  auto model = FakeHost().model("x86-64-v33");
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(model.error().message(), HasSubstr("did you mean 'x86-64-v3'"));
}

TEST(CpuModel, MissingHostFeaturesAreListed) {
  FakeHost fake;
  fake.remove("avx2");
  fake.remove("bmi2");
  auto v3 = fake.model("x86-64-v3");
  ASSERT_FALSE(v3);
  EXPECT_EQ(v3.error().code(), ErrorCode::kUnsupported);
  EXPECT_THAT(v3.error().message(), HasSubstr("avx2 bmi2"));
  EXPECT_TRUE(fake.model("x86-64-v2"));
  auto max = fake.model("max");
  ASSERT_TRUE(max);
  EXPECT_FALSE(max->has("avx2"));
  EXPECT_TRUE(max->has("avx"));

  fake.remove("popcnt");
  auto refused = fake.model("max");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("popcnt"));
}

TEST(CpuModel, HostWithoutYmmStateHasNoAvx) {
  FakeHost fake;
  fake.xcr0 = 3;
  auto max = fake.model("max");
  ASSERT_TRUE(max);
  for (std::string_view name : {"avx", "avx2", "fma", "f16c", "vaes", "vpclmulqdq", "avx_vnni"})
    EXPECT_FALSE(max->has(name)) << name;
  EXPECT_EQ(max->supported_xcr0(), 3u);
  EXPECT_EQ(max->cpuid(0xd, 0).ecx, 576u);
  EXPECT_FALSE(fake.model("x86-64-v3"));
}

TEST(CpuModel, OnlyTableBitsAreAdvertised) {
  for (const char* name : {"x86-64-v2", "x86-64-v3", "max"}) {
    auto model = FakeHost().model(name, 4);
    ASSERT_TRUE(model) << name;
    std::map<std::tuple<uint32_t, uint32_t, int>, uint32_t> allowed;
    for (const Feature& feature : features())
      allowed[{feature.leaf, feature.subleaf, static_cast<int>(feature.reg)}] |= 1u << feature.bit;
    auto check = [&](uint32_t leaf, CpuidRegister reg, uint32_t subleaf = 0) {
      CpuidResult result = model->cpuid(leaf, subleaf);
      EXPECT_EQ(select(result, reg) & ~(allowed[{leaf, subleaf, static_cast<int>(reg)}]), 0u)
          << name << " leaf " << leaf << " sub-leaf " << subleaf;
    };
    check(1, CpuidRegister::kEcx);
    check(1, CpuidRegister::kEdx);
    for (CpuidRegister reg : {CpuidRegister::kEbx, CpuidRegister::kEcx, CpuidRegister::kEdx}) check(7, reg);
    for (CpuidRegister reg : {CpuidRegister::kEax, CpuidRegister::kEbx, CpuidRegister::kEcx, CpuidRegister::kEdx})
      check(7, reg, 1);
    EXPECT_EQ(model->cpuid(7, 0).eax, model->cpuid(7, 1) == CpuidResult{} ? 0u : 1u) << name;
    check(0x80000001, CpuidRegister::kEcx);
    check(0x80000001, CpuidRegister::kEdx);
    check(0x80000007, CpuidRegister::kEdx);
    EXPECT_EQ(model->cpuid(0xd, 0).eax, model->supported_xcr0());
    EXPECT_EQ(model->cpuid(0xa, 0), CpuidResult{});
    EXPECT_EQ(model->cpuid(5, 0), CpuidResult{});
    EXPECT_EQ(model->cpuid(7, 2), CpuidResult{});
    for (std::string_view feature : {"monitor", "avx512f", "rtm", "hle", "vmx", "pku", "la57"})
      EXPECT_FALSE(model->has(feature)) << feature;
  }
}

TEST(CpuModel, TableAgreesWithTheNames) {
  for (const Feature& feature : features()) {
    const isa::x86::CpuidFeature* named = isa::x86::find_cpuid_feature(feature.name);
    ASSERT_NE(named, nullptr) << feature.name;
    EXPECT_EQ(named->name, feature.name);
    EXPECT_EQ(named->leaf, feature.leaf) << feature.name;
    EXPECT_EQ(named->subleaf, feature.subleaf) << feature.name;
    EXPECT_EQ(static_cast<int>(named->output), static_cast<int>(feature.reg)) << feature.name;
    EXPECT_EQ(named->bit, feature.bit) << feature.name;
  }
}

TEST(CpuModel, LevelsContainOneAnother) {
  FakeHost fake;
  auto v2 = fake.model("x86-64-v2"), v3 = fake.model("x86-64-v3"), max = fake.model("max");
  ASSERT_TRUE(v2 && v3 && max);
  for (std::string_view name : v2->feature_names()) EXPECT_TRUE(v3->has(name)) << name;
  for (std::string_view name : v3->feature_names()) EXPECT_TRUE(max->has(name)) << name;
  EXPECT_THAT(v2->feature_names(), Not(Contains("avx")));
  for (std::string_view name : {"avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"})
    EXPECT_TRUE(v3->has(name)) << name;
  for (std::string_view name : {"sha_ni", "vaes", "gfni", "adx", "rdseed", "avx_vnni", "movdiri", "serialize"}) {
    EXPECT_TRUE(max->has(name)) << name;
    EXPECT_FALSE(v3->has(name)) << name;
  }
  EXPECT_TRUE(max->has(""));
  EXPECT_FALSE(max->has("no such feature"));
  EXPECT_EQ(v2->supported_cr4() & cr4::kOsxsave, 0u);
  EXPECT_NE(v3->supported_cr4() & cr4::kOsxsave, 0u);
  EXPECT_EQ(max->supported_cr4() & (cr4::kVme | cr4::kPvi | cr4::kLa57), cr4::kVme | cr4::kPvi);
}

TEST(CpuModel, BehaviourBitsFollowTheHost) {
  FakeHost fake;
  EXPECT_NE(fake.model("x86-64-v2")->cpuid(7, 0).ebx & (1u << 6), 0u);
  EXPECT_NE(fake.model("x86-64-v2")->cpuid(7, 0).ebx & (1u << 13), 0u);
  fake.remove("zero_fcs_fds");
  fake.remove("fdp_excptn_only");
  EXPECT_EQ(fake.model("max")->cpuid(7, 0).ebx & (1u << 6 | 1u << 13), 0u);
}

TEST(CpuModel, SmpBits) {
  FakeHost fake;
  constexpr uint32_t kHt = 1u << 28;
  EXPECT_EQ(fake.model("max", 1)->cpuid(1, 0).edx & kHt, 0u);
  auto three = fake.model("max", 3);
  EXPECT_NE(three->cpuid(1, 0).edx & kHt, 0u);
  EXPECT_EQ((three->cpuid(1, 0).ebx >> 16) & 0xff, 4u);
  EXPECT_EQ(three->cpuid(0xb, 0), (CpuidResult{.eax = 0, .ebx = 1, .ecx = 0x100}));
  EXPECT_EQ(three->cpuid(0xb, 1), (CpuidResult{.eax = 2, .ebx = 3, .ecx = 0x201}));
  EXPECT_EQ(three->cpuid(0xb, 2), (CpuidResult{.ecx = 2}));
  EXPECT_EQ(fake.model("max", 1)->cpuid(0x1f, 1), (CpuidResult{.eax = 0, .ebx = 1, .ecx = 0x201}));
  EXPECT_EQ(three->cpuid(4, 0).eax >> 26, 3u);
  EXPECT_FALSE(fake.model("max", 0));
}

TEST(CpuModel, TopologyOfManyProcessors) {
  FakeHost fake;
  auto intel = fake.model("max", 255);
  EXPECT_EQ((intel->cpuid(1, 0).ebx >> 16) & 0xff, 255u);
  EXPECT_EQ(intel->cpuid(0xb, 1), (CpuidResult{.eax = 8, .ebx = 255, .ecx = 0x201}));
  EXPECT_EQ(intel->cpuid(0x1f, 1), intel->cpuid(0xb, 1));
  EXPECT_EQ(intel->cpuid(4, 3).eax >> 14 & 0xfff, 255u) << "all share the last cache";
  EXPECT_EQ(intel->cpuid(4, 3).eax >> 26, 63u) << "as much as six bits hold";

  fake.make_amd();
  auto amd = fake.model("max", 255);
  EXPECT_EQ(amd->cpuid(0xb, 1), (CpuidResult{.eax = 8, .ebx = 255, .ecx = 0x201}));
  EXPECT_EQ(amd->cpuid(0x1f, 1), CpuidResult{});
  EXPECT_EQ(amd->cpuid(0x80000008, 0).ecx, 254u | 8u << 12);
  EXPECT_EQ(amd->cpuid(0x8000001d, 3).eax >> 14 & 0xfff, 255u);
  CpuState state;
  reset_to_power_on(state);
  EXPECT_EQ(execute_cpuid(*amd, state, 254, true, 0x8000001e, 0), (CpuidResult{.eax = 254, .ebx = 254}));
  EXPECT_EQ(execute_cpuid(*amd, state, 254, true, 1, 0).ebx >> 24, 254u);
  EXPECT_EQ(execute_cpuid(*amd, state, 254, true, 0xb, 5).edx, 254u);
}

TEST(CpuModel, CachesEndWithANullEntryAndHaveTheirSizes) {
  auto model = FakeHost().model("x86-64-v3", 2);
  auto size = [&](uint32_t i) {
    CpuidResult cache = model->cpuid(4, i);
    return uint64_t{(cache.ebx >> 22) + 1} * ((cache.ebx & 0xfff) + 1) * (cache.ecx + 1);
  };
  EXPECT_EQ(size(0), 32u << 10);
  EXPECT_EQ(size(2), 1u << 20);
  EXPECT_EQ(size(3), 16u << 20);
  EXPECT_EQ((model->cpuid(4, 3).eax >> 14) & 0xfff, 1u);  // shared by both processors
  EXPECT_EQ((model->cpuid(4, 0).eax >> 14) & 0xfff, 0u);
  EXPECT_EQ(model->cpuid(4, 4).eax & 0x1f, 0u);
}

TEST(CpuModel, OutOfRangeLeavesFollowTheVendor) {
  FakeHost fake;
  auto intel = fake.model("max");
  EXPECT_EQ(intel->cpuid(0x12345, 0), intel->cpuid(intel->cpuid(0, 0).eax, 0));
  EXPECT_EQ(intel->cpuid(0x80001234, 1), intel->cpuid(0x1f, 1));
  EXPECT_EQ(intel->cpuid(0x40000011, 0), CpuidResult{});
  fake.make_amd();
  auto amd = fake.model("max");
  ASSERT_TRUE(amd);
  EXPECT_FALSE(amd->intel());
  EXPECT_EQ(amd->cpuid(0x12345, 0), CpuidResult{});
  EXPECT_EQ(amd->cpuid(0x80001234, 0), CpuidResult{});
}

TEST(CpuModel, AmdRepeatsFeatureBits) {
  FakeHost fake;
  fake.make_amd();
  auto amd = fake.model("x86-64-v2", 2);
  ASSERT_TRUE(amd);
  uint32_t edx = amd->cpuid(0x80000001, 0).edx;
  EXPECT_NE(edx & 1, 0u);           // fpu
  EXPECT_NE(edx & (1u << 24), 0u);  // fxsr
  EXPECT_NE(edx & (1u << 29), 0u);  // lm
  EXPECT_EQ(amd->cpuid(4, 0), CpuidResult{});
  EXPECT_NE(amd->cpuid(0x8000001d, 0).eax & 0x1f, 0u);
  EXPECT_TRUE(amd->has("topoext"));
  EXPECT_EQ(amd->cpuid(0x80000008, 0).ecx, 1u | 1u << 12);
  CpuState state;
  EXPECT_EQ(execute_cpuid(*amd, state, 1, true, 0x8000001e, 0), (CpuidResult{.eax = 1, .ebx = 1}));
}

TEST(CpuModel, FrequencyLeavesAgreeWithTheClock) {
  for (uint64_t hz :
       {1'000'000'000ull, 2'600'002'000ull, 2'799'999'123ull, 3'000'000'000ull, 4'250'000'001ull, 999'999'937ull}) {
    auto model = CpuModel::create({.name = "max", .tsc_frequency_hz = hz}, FakeHost().host());
    CpuidResult crystal = model->cpuid(0x15, 0);
    ASSERT_NE(crystal.eax, 0u);
    EXPECT_EQ(crystal.ecx, kBusFrequencyHz);
    // As Linux computes it, in 32 bits of kHz.
    EXPECT_LE(uint64_t{crystal.ecx / 1000} * crystal.ebx, UINT32_MAX);
    double computed = static_cast<double>(crystal.ecx) * crystal.ebx / crystal.eax;
    EXPECT_NEAR(computed / static_cast<double>(hz), 1.0, 1e-6) << hz;
    EXPECT_EQ(model->cpuid(0x40000010, 0).eax, hz / 1000);
    EXPECT_EQ(model->cpuid(0x40000010, 0).ebx, 1'000'000u);
  }
  auto without = CpuModel::create({.name = "max"}, FakeHost().host());
  EXPECT_EQ(without->cpuid(0x15, 0), CpuidResult{});
}

TEST(CpuModel, KvmSignature) {
  auto model = FakeHost().model("max");
  CpuidResult signature = model->cpuid(0x40000000, 0);
  std::string text;
  for (uint32_t word : {signature.ebx, signature.ecx, signature.edx})
    text.append(reinterpret_cast<const char*>(&word), 4);
  EXPECT_EQ(text, std::string("KVMKVMKVM\0\0\0", 12));
  EXPECT_EQ(model->cpuid(0x40000001, 0).eax, 1u << 1 | 1u << 3 | 1u << 24);
  // What helps processors that share fewer real ones.
  EXPECT_EQ(FakeHost().model("max", 2)->cpuid(0x40000001, 0).eax, 1u << 1 | 1u << 3 | 1u << 7 | 1u << 11 | 1u << 24);
  EXPECT_TRUE(FakeHost().model("x86-64-v2", 2)->has("kvm_pv_unhalt"));
  EXPECT_FALSE(model->has("kvm_pv_unhalt"));
}

TEST(CpuModel, AddressSizes) {
  FakeHost fake;
  EXPECT_EQ(fake.model("max")->physical_address_bits(), 46u);
  EXPECT_EQ(fake.model("x86-64-v2")->physical_address_bits(), 40u);
  EXPECT_EQ(fake.model("max")->cpuid(0x80000008, 0).eax, 46u | 48u << 8);
  fake.leaves[{0x80000008, 0}] = {.eax = 0x3027};
  EXPECT_EQ(fake.model("x86-64-v3")->physical_address_bits(), 39u);
}

TEST(ExecuteCpuid, DynamicBits) {
  auto model = FakeHost().model("max", 2);
  CpuState state;
  reset_to_power_on(state);
  EXPECT_EQ(execute_cpuid(*model, state, 5, true, 1, 0).ebx >> 24, 5u);
  EXPECT_EQ(execute_cpuid(*model, state, 0, true, 1, 0).ecx & (1u << 27), 0u);
  EXPECT_EQ(execute_cpuid(*model, state, 0, false, 1, 0).edx & (1u << 9), 0u);
  EXPECT_EQ(execute_cpuid(*model, state, 0, true, 0x80000001, 0).edx & (1u << 11), 0u);  // SYSCALL, outside 64-bit mode
  EXPECT_EQ(execute_cpuid(*model, state, 7, true, 0xb, 1).edx, 7u);
  EXPECT_EQ(execute_cpuid(*model, state, 0, true, 0xd, 0).ebx, 576u);

  state.cr4 |= cr4::kOsxsave;
  state.xcr0 = 7;
  state.efer = efer::kLma;
  state.segment[kCs].attributes = 0xa09b & ~0xf00;
  EXPECT_NE(execute_cpuid(*model, state, 0, true, 1, 0).ecx & (1u << 27), 0u);
  EXPECT_NE(execute_cpuid(*model, state, 0, true, 0x80000001, 0).edx & (1u << 11), 0u);
  EXPECT_EQ(execute_cpuid(*model, state, 0, true, 0xd, 0).ebx, 832u);
  EXPECT_EQ(execute_cpuid(*model, state, 0, true, 0xd, 0).ecx, 832u);
  EXPECT_EQ(execute_cpuid(*model, state, 0, true, 0xd, 1).ebx, 832u);
  state.xcr0 = 1;
  EXPECT_EQ(execute_cpuid(*model, state, 0, true, 0xd, 1).ebx, 576u);
}

TEST(CpuModel, RealHostGivesMax) {
  auto model = CpuModel::create({.name = "max", .tsc_frequency_hz = kTscHz});
  ASSERT_TRUE(model) << model.error().to_string();
  HostCpu host = HostCpu::native();
  // Every host-provided feature that is offered is in the host's CPUID.
  for (const Feature& feature : features()) {
    if (!model->has(feature.name) || feature.provider != Provider::kHost) continue;
    CpuidResult result = host.cpuid(feature.leaf, feature.subleaf);
    EXPECT_NE((select(result, feature.reg) >> feature.bit) & 1, 0u) << feature.name;
  }
}

}  // namespace
}  // namespace rhea::cpu
