// SPDX-License-Identifier: Apache-2.0
// Builds the CPUID leaves of a CPU model out of the feature table and the host's processor.
//
// Speculation. Guest code never runs as the guest wrote it: a guest's retpoline, VERW, L1D flush or BHB clearing
// sequence is translated like any other code and no longer has, on the host's predictors and buffers, the effect it
// was written for. It would cost time and protect nothing. So ARCH_CAPABILITIES reports the processor as not
// affected, and SPEC_CTRL with IBRS_ALL makes kernels choose "enhanced IBRS", one MSR write at boot (the MSR is plain
// storage). The border that Rhea defends is that of the process: host secrets stay out of the VM's process. A guest
// that must hold its own users apart against speculation needs the kvm engine; docs say so.
#include "cpu/cpu_model.h"

#include <cpuid.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/strings.h"
#include "cpu/cpu_features.h"

namespace rhea::cpu {

namespace {

constexpr uint64_t kXcr0X87 = 1, kXcr0Sse = 2, kXcr0Avx = 4, kXcr0Avx512 = 0xe0;
constexpr unsigned kGenericPhysicalBits = 40;
constexpr unsigned kMaxPhysicalBits = 46;
constexpr unsigned kVirtualBits = 48;  // four-level paging

struct Model {
  std::string_view name;
  Level level;
  uint32_t intel_signature, amd_signature;  // leaf 1 EAX; 0: the host's
};
// Generic signatures: ordinary family members without hardware quirks that guests would work around under a
// hypervisor (Nehalem, Haswell; Zen for both levels).
constexpr Model kModels[] = {
    {"x86-64-v2", Level::kV2, 0x000106a5, 0x00800f12},
    {"x86-64-v3", Level::kV3, 0x000306c3, 0x00800f12},
    {"max", Level::kMax, 0, 0},
};

// IA32_ARCH_CAPABILITIES. [SDM-4 2.1, MSR 10AH]
constexpr uint64_t kArchCapabilities = (1ull << 0)      // RDCL_NO: no Meltdown
                                       | (1ull << 1)    // IBRS_ALL: enhanced IBRS
                                       | (1ull << 3)    // SKIP_L1DFL_VMENTRY
                                       | (1ull << 4)    // SSB_NO
                                       | (1ull << 5)    // MDS_NO
                                       | (1ull << 6)    // IF_PSCHANGE_MC_NO
                                       | (1ull << 8)    // TAA_NO
                                       | (1ull << 13)   // SBDR_SSDP_NO
                                       | (1ull << 14)   // FBSDP_NO
                                       | (1ull << 15)   // PSDP_NO
                                       | (1ull << 20)   // BHI_NO
                                       | (1ull << 24)   // PBRSB_NO
                                       | (1ull << 26)   // GDS_NO
                                       | (1ull << 27)   // RFDS_NO
                                       | (1ull << 62);  // ITS_NO

struct Cache {
  unsigned level;
  unsigned type;  // 1 data, 2 instruction, 3 unified
  unsigned ways, size_kib;
  bool shared;
};
constexpr unsigned kLineBytes = 64;
constexpr Cache kCaches[] = {
    {1, 1, 8, 32, false}, {1, 2, 8, 32, false}, {2, 3, 16, 1024, false}, {3, 3, 16, 16384, true}};

Result<Model> find_model(const std::string& name) {
  for (const Model& model : kModels)
    if (model.name == name) return model;
  const std::vector<std::string_view> names = CpuModel::model_names();
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("unknown CPU model '{}'{}; models: {}", name.substr(0, 64),
                          base::did_you_mean(name.substr(0, 64), names), fmt::join(names, ", ")));
}

struct Fraction {
  uint32_t numerator, denominator;
};

// The best approximation numerator/denominator of tsc_hz / 1 GHz whose numerator stays below 4295: Linux computes
// crystal_khz * numerator in 32 bits. Error below one part per million.
Fraction crystal_ratio(uint64_t tsc_hz) {
  constexpr uint64_t kMaxNumerator = UINT32_MAX / (kBusFrequencyHz / 1000);
  Fraction best{0, 1};
  double target = static_cast<double>(tsc_hz) / static_cast<double>(kBusFrequencyHz);
  double best_error = target;
  for (uint32_t denominator = 1; denominator <= 4096; ++denominator) {
    uint64_t numerator = (tsc_hz * denominator + kBusFrequencyHz / 2) / kBusFrequencyHz;
    if (numerator > kMaxNumerator) break;
    double error = std::abs(static_cast<double>(numerator) / denominator - target);
    if (error < best_error) {
      best_error = error;
      best = {static_cast<uint32_t>(numerator), denominator};
    }
  }
  return best;
}

}  // namespace

HostCpu HostCpu::native() {
  HostCpu host;
  host.cpuid = [](uint32_t leaf, uint32_t subleaf) {
    CpuidResult result;
    // The hypervisor range has no maximum that __get_cpuid_max knows; nothing here asks for it.
    if (leaf > __get_cpuid_max(leaf & 0x80000000, nullptr)) return result;
    __cpuid_count(leaf, subleaf, result.eax, result.ebx, result.ecx, result.edx);
    return result;
  };
  constexpr uint32_t kOsxsave = 1u << 27;
  if (host.cpuid(1, 0).ecx & kOsxsave) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    host.xcr0 = (uint64_t{high} << 32) | low;
  }
  return host;
}

// Collects the leaves of one model.
class CpuModelBuilder {
 public:
  CpuModelBuilder(const CpuModel::Options& options, const Model& model, const HostCpu& host)
      : options_(options), model_(model), host_(host) {}

  Result<CpuModel> build();

 private:
  bool host_has(const Feature& feature) const;
  Status choose_features();
  void drop(std::string_view name) { out_.features_.reset(*find_feature(name)); }
  bool has(std::string_view name) const { return out_.has(name); }
  CpuidResult& leaf(uint32_t number, uint32_t subleaf = 0);
  void set_text(uint32_t first_leaf, unsigned leaves, std::string_view text);

  void identification();
  void feature_leaves();
  void caches();
  void topology();
  void xsave();
  void frequencies();
  void hypervisor();
  void extended();
  void amd_extended();
  void control_registers();

  const CpuModel::Options& options_;
  const Model& model_;
  const HostCpu& host_;
  CpuModel out_;
};

CpuidResult& CpuModelBuilder::leaf(uint32_t number, uint32_t subleaf) {
  auto key = std::pair(number, subleaf);
  auto at = std::lower_bound(
      out_.entries_.begin(), out_.entries_.end(), key,
      [](const CpuModel::Entry& entry, const auto& wanted) { return std::pair(entry.leaf, entry.subleaf) < wanted; });
  if (at == out_.entries_.end() || at->leaf != number || at->subleaf != subleaf)
    at = out_.entries_.insert(at, CpuModel::Entry{number, subleaf, {}});
  return at->result;
}

bool CpuModelBuilder::host_has(const Feature& feature) const {
  // AVX state that the host's system does not switch is not there for us either.
  constexpr std::string_view kNeedYmm[] = {"avx", "avx2", "fma", "f16c", "vaes", "vpclmulqdq", "avx_vnni"};
  constexpr uint64_t kYmm = kXcr0X87 | kXcr0Sse | kXcr0Avx;
  if (std::ranges::find(kNeedYmm, feature.name) != std::end(kNeedYmm) && (host_.xcr0 & kYmm) != kYmm) return false;
  constexpr uint64_t kZmm = kYmm | kXcr0Avx512;
  if (feature.level == Level::kAvx512 && (host_.xcr0 & kZmm) != kZmm) return false;
  if (feature.name == "xsave" && host_.xcr0 == 0) return false;
  uint32_t max = host_.cpuid(feature.leaf & 0x80000000, 0).eax;
  if (max < feature.leaf || (feature.leaf & 0x80000000) != (max & 0x80000000)) return false;
  CpuidResult result = host_.cpuid(feature.leaf, feature.subleaf);
  return (select(result, feature.reg) >> feature.bit) & 1;
}

// Every feature that the model contains, less what the host lacks ("max") or refused if the host lacks any.
Status CpuModelBuilder::choose_features() {
  std::vector<std::string_view> missing;
  for (size_t i = 0; i < features().size(); ++i) {
    const Feature& feature = features()[i];
    bool wanted = false;
    switch (feature.level) {
      case Level::kV2: wanted = true; break;
      case Level::kV3: wanted = model_.level != Level::kV2; break;
      case Level::kMax: wanted = model_.level == Level::kMax; break;
      case Level::kAvx512: wanted = model_.level == Level::kMax && options_.avx512; break;
      case Level::kInherit: wanted = host_has(feature); break;
      case Level::kSmp: wanted = options_.cpu_count > 1; break;
      case Level::kAmd: wanted = !out_.intel_; break;
    }
    if (!wanted) continue;
    if (std::ranges::find(options_.withheld, feature.name) != options_.withheld.end()) {
      if (model_.level != Level::kMax) missing.push_back(feature.name);
      continue;
    }
    if (feature.provider == Provider::kHost && !host_has(feature)) {
      missing.push_back(feature.name);
      continue;
    }
    out_.features_.set(i);
  }
  // Whatever the model, x86-64-v2 is what Rhea needs of its host.
  std::erase_if(missing, [&](std::string_view name) {
    return model_.level == Level::kMax && features()[*find_feature(name)].level != Level::kV2;
  });
  if (!missing.empty())
    return fail(ErrorCode::kUnsupported, fmt::format("CPU model '{}' needs features that this host lacks: {}",
                                                     model_.name, fmt::join(missing, " ")));
  if (!has("xsave"))
    for (std::string_view name :
         {"avx", "avx2", "fma", "f16c", "vaes", "vpclmulqdq", "avx_vnni", "xsaveopt", "xsavec", "xgetbv1", "xsaves"})
      drop(name);
  if (!has("avx"))
    for (std::string_view name : {"avx2", "fma", "f16c", "vaes", "vpclmulqdq", "avx_vnni", "avx512f"}) drop(name);
  // Of the extensions none stands alone, and the translator tests masks of memory accesses with BW's instructions.
  if (!has("avx512f") || !has("avx512bw") || !has("avx512vl") || !has("avx512dq"))
    for (const Feature& feature : features())
      if (feature.level == Level::kAvx512) drop(feature.name);
  return {};
}

void CpuModelBuilder::set_text(uint32_t first_leaf, unsigned leaves, std::string_view text) {
  std::string padded(text.substr(0, leaves * 16 - 1));
  padded.resize(leaves * 16);
  for (unsigned i = 0; i < leaves; ++i) {
    CpuidResult& result = leaf(first_leaf + i);
    std::memcpy(&result.eax, &padded[i * 16], 4);
    std::memcpy(&result.ebx, &padded[i * 16 + 4], 4);
    std::memcpy(&result.ecx, &padded[i * 16 + 8], 4);
    std::memcpy(&result.edx, &padded[i * 16 + 12], 4);
  }
}

void CpuModelBuilder::identification() {
  CpuidResult vendor = host_.cpuid(0, 0);
  out_.max_basic_ = out_.intel_ ? 0x1f : 0x16;
  leaf(0) = {.eax = out_.max_basic_, .ebx = vendor.ebx, .ecx = vendor.ecx, .edx = vendor.edx};

  uint32_t signature = out_.intel_ ? model_.intel_signature : model_.amd_signature;
  CpuidResult& one = leaf(1);
  one.eax = signature != 0 ? signature : host_.cpuid(1, 0).eax;
  one.ebx = (kLineBytes / 8) << 8;
  // Addressable IDs, in eight bits: 255 stands for 256. [SDM-2A CPUID leaf 01H]
  if (options_.cpu_count > 1) one.ebx |= std::min(std::bit_ceil(options_.cpu_count), 255u) << 16;
  // Descriptors: cache details in leaf 4, 64-byte prefetch. [SDM-2A CPUID leaf 02H]
  if (out_.intel_) leaf(2) = {.eax = 0x00f0ff01};
}

void CpuModelBuilder::feature_leaves() {
  for (size_t i = 0; i < features().size(); ++i) {
    const Feature& feature = features()[i];
    if (!out_.features_.test(i)) continue;
    select(leaf(feature.leaf, feature.subleaf), feature.reg) |= 1u << feature.bit;
    if (feature.leaf == 7) leaf(7).eax = std::max(leaf(7).eax, feature.subleaf);  // the last sub-leaf
  }
  out_.arch_capabilities_ = kArchCapabilities;
}

// Leaf 4 (Intel) and 0x8000001D (AMD) have one format. Sizes follow the host for "max", because C libraries tune
// their copy routines by them; how many processors share a cache is the guest's own topology.
void CpuModelBuilder::caches() {
  uint32_t number = out_.intel_ ? 4 : 0x8000001d;
  unsigned cores = std::bit_ceil(options_.cpu_count);
  unsigned count = 0;
  auto add = [&](unsigned type, unsigned level, bool shared, const CpuidResult& geometry) {
    uint32_t eax = type | level << 5 | 1u << 8;
    if (shared) eax |= (std::min(cores, 4096u) - 1) << 14;
    if (out_.intel_) eax |= (std::min(cores, 64u) - 1) << 26;
    leaf(number, count++) = {.eax = eax, .ebx = geometry.ebx, .ecx = geometry.ecx, .edx = geometry.edx & 0b111};
  };
  bool host_describes = host_.cpuid(number & 0x80000000, 0).eax >= number;
  if (model_.level == Level::kMax && host_describes) {
    for (uint32_t i = 0; i < 8; ++i) {
      CpuidResult host = host_.cpuid(number, i);
      unsigned type = host.eax & 0x1f, level = (host.eax >> 5) & 7;
      // Some hypervisors answer for a leaf of the other vendor, with line size zero: not a cache.
      if (type == 0 || type > 3 || level == 0 || (host.ebx & 0xfff) + 1 != kLineBytes) break;
      add(type, level, level >= 3, host);
    }
  }
  if (count == 0) {
    for (const Cache& cache : kCaches) {
      uint32_t sets = cache.size_kib * 1024 / (cache.ways * kLineBytes);
      add(cache.type, cache.level, cache.shared, {.ebx = (cache.ways - 1) << 22 | (kLineBytes - 1), .ecx = sets - 1});
    }
  }
}

// One thread per core, all cores in one package. [SDM-3A 9.9.3]
void CpuModelBuilder::topology() {
  unsigned shift = std::bit_width(options_.cpu_count - 1);
  for (uint32_t number : {0xbu, 0x1fu}) {
    if (number > out_.max_basic_) continue;  // AMD has the first alone [APM-3 E.3.9]
    constexpr uint32_t kSmtLevel = 1, kCoreLevel = 2;
    leaf(number, 0) = {.eax = 0, .ebx = 1, .ecx = kSmtLevel << 8 | 0};
    leaf(number, 1) = {.eax = shift, .ebx = options_.cpu_count, .ecx = kCoreLevel << 8 | 1};
  }
}

void CpuModelBuilder::xsave() {
  if (!has("xsave")) {
    out_.supported_xcr0_ = 0;
    return;
  }
  out_.supported_xcr0_ = kXcr0X87 | kXcr0Sse;
  uint32_t size = 576;
  if (has("avx")) {
    out_.supported_xcr0_ |= kXcr0Avx;
    // The host's own layout, because its XSAVE writes it.
    CpuidResult ymm = host_.cpuid(0xd, 2);
    leaf(0xd, 2) = {.eax = ymm.eax, .ebx = ymm.ebx, .ecx = 0};
    size = ymm.ebx + ymm.eax;
  }
  if (has("avx512f")) {
    out_.supported_xcr0_ |= kXcr0Avx512;
    for (uint32_t index = 5; index <= 7; ++index) {
      CpuidResult part = host_.cpuid(0xd, index);
      leaf(0xd, index) = {.eax = part.eax, .ebx = part.ebx, .ecx = part.ecx & 2};  // aligned when compacted
      size = std::max(size, part.ebx + part.eax);
    }
  }
  CpuidResult& main = leaf(0xd, 0);
  main.eax = static_cast<uint32_t>(out_.supported_xcr0_);
  main.ebx = 576;
  main.ecx = size;
}

void CpuModelBuilder::frequencies() {
  uint64_t hz = options_.tsc_frequency_hz;
  if (hz == 0) return;
  Fraction ratio = crystal_ratio(hz);
  if (ratio.numerator != 0)
    leaf(0x15) = {.eax = ratio.denominator, .ebx = ratio.numerator, .ecx = static_cast<uint32_t>(kBusFrequencyHz)};
  uint32_t mhz = static_cast<uint32_t>(std::min<uint64_t>((hz + 500'000) / 1'000'000, 0xffff));
  leaf(0x16) = {.eax = mhz, .ebx = mhz, .ecx = 100};
}

// The KVM signature: what Linux looks for first under a hypervisor. Leaf 0x40000001 is in the table of features.
// [Linux Documentation/virt/kvm/x86/cpuid.rst]
void CpuModelBuilder::hypervisor() {
  out_.max_hypervisor_ = 0x40000010;
  CpuidResult& signature = leaf(0x40000000);
  signature.eax = out_.max_hypervisor_;
  std::memcpy(&signature.ebx, "KVMK", 4);
  std::memcpy(&signature.ecx, "VMKV", 4);
  std::memcpy(&signature.edx, "M\0\0\0", 4);
  leaf(0x40000010) = {.eax = static_cast<uint32_t>(options_.tsc_frequency_hz / 1000), .ebx = kBusFrequencyHz / 1000};
}

void CpuModelBuilder::extended() {
  out_.max_extended_ = out_.intel_ ? 0x80000008 : 0x80000021;
  CpuidResult& range = leaf(0x80000000);
  range.eax = out_.max_extended_;
  set_text(0x80000002, 3, fmt::format("Rhea virtual CPU {}", model_.name));

  unsigned host_bits = host_.cpuid(0x80000000, 0).eax >= 0x80000008 ? host_.cpuid(0x80000008, 0).eax & 0xff : 36;
  unsigned limit = model_.level == Level::kMax ? kMaxPhysicalBits : kGenericPhysicalBits;
  out_.physical_address_bits_ = std::clamp(host_bits, 36u, limit);
  leaf(0x80000008).eax = out_.physical_address_bits_ | kVirtualBits << 8;
  // L2 for processors that ask here: 1 MiB, 16-way (code 8), one line per tag.
  leaf(0x80000006).ecx = 1024u << 16 | 8u << 12 | (out_.intel_ ? 0 : 1u << 8) | kLineBytes;
  if (!out_.intel_) amd_extended();
}

// [APM-3 E.4]
void CpuModelBuilder::amd_extended() {
  const CpuidResult vendor = leaf(0);
  CpuidResult& range = leaf(0x80000000);
  range.ebx = vendor.ebx;
  range.ecx = vendor.ecx;
  range.edx = vendor.edx;
  // AMD repeats these bits of leaf 1 EDX; bits 11, 20 and above are its own.
  constexpr uint32_t kRepeated = 0x0183f3ff;
  CpuidResult& features = leaf(0x80000001);
  features.eax = leaf(1).eax;
  features.edx |= leaf(1).edx & kRepeated;
  // L1: 32 KiB, 8-way, 64-byte lines, data and instructions.
  leaf(0x80000005) = {.ecx = 32u << 24 | 8u << 16 | 1u << 8 | kLineBytes,
                      .edx = 32u << 24 | 8u << 16 | 1u << 8 | kLineBytes};
  unsigned cores = options_.cpu_count;
  leaf(0x80000008).ecx = (std::min(cores, 256u) - 1) | static_cast<uint32_t>(std::bit_width(cores - 1)) << 12;
  leaf(0x8000001e) = {};  // APIC and core id at execution; one thread per core, one node
  // Whether LFENCE serialises is a property of the host's own LFENCE.
  constexpr uint32_t kLfenceSerializing = 1u << 2;
  if (host_.cpuid(0x80000000, 0).eax >= 0x80000021)
    leaf(0x80000021).eax = host_.cpuid(0x80000021, 0).eax & kLfenceSerializing;
}

void CpuModelBuilder::control_registers() {
  uint64_t bits = cr4::kTsd | cr4::kDe | cr4::kPse | cr4::kPae | cr4::kMce | cr4::kPge | cr4::kPce | cr4::kOsfxsr |
                  cr4::kOsxmmexcpt;
  auto add = [&](std::string_view feature, uint64_t bit) {
    if (has(feature)) bits |= bit;
  };
  add("vme", cr4::kVme | cr4::kPvi);
  add("umip", cr4::kUmip);
  add("fsgsbase", cr4::kFsgsbase);
  add("pcid", cr4::kPcide);
  add("xsave", cr4::kOsxsave);
  add("smep", cr4::kSmep);
  add("smap", cr4::kSmap);
  out_.supported_cr4_ = bits;
}

Result<CpuModel> CpuModelBuilder::build() {
  const CpuidResult vendor = host_.cpuid(0, 0);
  // Copied instructions behave as the host's do, so the guest's vendor is the host's. Hygon's cores are AMD's,
  // Zhaoxin's and VIA's follow Intel.
  constexpr uint32_t kAuth = 0x68747541, kHygo = 0x6f677948;  // "Auth", "Hygo"
  out_.intel_ = vendor.ebx != kAuth && vendor.ebx != kHygo;
  out_.name_ = model_.name;
  RHEA_TRY(choose_features());
  identification();
  feature_leaves();
  caches();
  topology();
  xsave();
  frequencies();
  hypervisor();
  extended();
  control_registers();
  return std::move(out_);
}

std::vector<std::string_view> CpuModel::model_names() {
  std::vector<std::string_view> names;
  for (const Model& model : kModels) names.push_back(model.name);
  return names;
}

Result<CpuModel> CpuModel::create(const Options& options) { return create(options, HostCpu::native()); }

Result<CpuModel> CpuModel::create(const Options& options, const HostCpu& host) {
  if (options.cpu_count == 0) return fail(ErrorCode::kInvalidArgument, "a CPU model needs at least one processor");
  Model model = RHEA_TRY(find_model(options.name));
  return CpuModelBuilder(options, model, host).build();
}

bool CpuModel::has(std::string_view feature) const {
  if (feature.empty()) return true;
  auto index = find_feature(feature);
  return index && features_.test(*index);
}

std::vector<CpuModel::Leaf> CpuModel::leaves() const {
  std::vector<Leaf> result;
  for (const Entry& entry : entries_) result.push_back({entry.leaf, entry.subleaf});
  return result;
}

std::vector<std::string_view> CpuModel::feature_names() const {
  std::vector<std::string_view> names;
  for (size_t i = 0; i < features().size(); ++i)
    if (features_.test(i)) names.push_back(features()[i].name);
  return names;
}

}  // namespace rhea::cpu
