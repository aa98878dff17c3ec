// SPDX-License-Identifier: Apache-2.0
// Register numbering, target description and conversion for gdb. [SDM-1 13.4] for the XSAVE layout.
#include "debug/registers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "cpu/xsave_layout.h"

namespace rhea::debug {

namespace {

using cpu::CpuState;

enum class Kind : uint8_t {
  kGpr,
  kRip,
  kRflags,
  kSelector,
  kSegmentBase,
  kX87,
  kX87Control,
  kXmm,
  kMxcsr,
  kYmmHigh,
  kMask,
  kUpperZmm,  // bits 511:256 of ZMM0-15
  kHighXmm,   // of ZMM16-31: bits 127:0,
  kHighYmm,   // 255:128
  kHighZmm,   // and 511:256
  kSystem
};
enum X87Control : uint8_t { kFctrl, kFstat, kFtag, kFiseg, kFioff, kFoseg, kFooff, kFop };
enum System : uint8_t { kCr0, kCr2, kCr3, kCr4, kEfer, kKernelGsBase };

struct Register {
  std::string name;
  Kind kind;
  uint8_t index;
  uint8_t size_bytes;
  const char* type;
};

struct FeatureSet {
  const char* name;
  std::string types;
  std::vector<Register> registers;
};

constexpr size_t kFcw = 0, kFsw = 2, kFtw = 4, kFop16 = 6, kFip = 8, kFdp = 16, kMxcsrOffset = 24, kSt0 = 32,
                 kXmm0 = 160, kXstateBv = 512, kYmmHigh0 = 576;
constexpr uint64_t kX87State = 1, kSseState = 2, kAvxState = 4, kAvx512States = 0xe0;

const char* const kEflagsType =
    R"(<flags id="i386_eflags" size="4">
<field name="CF" start="0" end="0"/><field name="" start="1" end="1"/><field name="PF" start="2" end="2"/>
<field name="AF" start="4" end="4"/><field name="ZF" start="6" end="6"/><field name="SF" start="7" end="7"/>
<field name="TF" start="8" end="8"/><field name="IF" start="9" end="9"/><field name="DF" start="10" end="10"/>
<field name="OF" start="11" end="11"/><field name="NT" start="14" end="14"/><field name="RF" start="16" end="16"/>
<field name="VM" start="17" end="17"/><field name="AC" start="18" end="18"/><field name="VIF" start="19" end="19"/>
<field name="VIP" start="20" end="20"/><field name="ID" start="21" end="21"/></flags>
)";
const char* const kVectorTypes =
    R"(<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/><vector id="v8i16" type="int16" count="8"/>
<vector id="v4i32" type="int32" count="4"/><vector id="v2i64" type="int64" count="2"/>
<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>
<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/>
<field name="v2_int64" type="v2i64"/><field name="uint128" type="uint128"/></union>
)";

// A feature knows only its own types, so these stand beside kVectorTypes once more.
const char* const kPairType = R"(<vector id="v2ui128" type="uint128" count="2"/>
)";

// ZMM0-15 above what the sets before describe, ZMM16-31 in the pieces that gdb puts together, and the masks.
FeatureSet avx512_features() {
  FeatureSet set{"org.gnu.gdb.i386.avx512", std::string(kVectorTypes) + kPairType, {}};
  for (uint8_t i = 0; i < 16; ++i)
    set.registers.push_back({fmt::format("xmm{}", 16 + i), Kind::kHighXmm, i, 16, "vec128"});
  for (uint8_t i = 0; i < 16; ++i)
    set.registers.push_back({fmt::format("ymm{}h", 16 + i), Kind::kHighYmm, i, 16, "uint128"});
  for (uint8_t i = 0; i < 8; ++i) set.registers.push_back({fmt::format("k{}", i), Kind::kMask, i, 8, "uint64"});
  for (uint8_t i = 0; i < 16; ++i)
    set.registers.push_back({fmt::format("zmm{}h", i), Kind::kUpperZmm, i, 32, "v2ui128"});
  for (uint8_t i = 0; i < 16; ++i)
    set.registers.push_back({fmt::format("zmm{}h", 16 + i), Kind::kHighZmm, i, 32, "v2ui128"});
  return set;
}

std::vector<FeatureSet> make_features() {
  std::vector<FeatureSet> sets;
  FeatureSet core{"org.gnu.gdb.i386.core", kEflagsType, {}};
  constexpr const char* kGprNames[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  constexpr uint8_t kGprIndex[] = {cpu::kRax, cpu::kRbx, cpu::kRcx, cpu::kRdx, cpu::kRsi, cpu::kRdi,
                                   cpu::kRbp, cpu::kRsp, cpu::kR8,  cpu::kR9,  cpu::kR10, cpu::kR11,
                                   cpu::kR12, cpu::kR13, cpu::kR14, cpu::kR15};
  for (unsigned i = 0; i < 16; ++i) {
    bool pointer = kGprIndex[i] == cpu::kRbp || kGprIndex[i] == cpu::kRsp;
    core.registers.push_back({kGprNames[i], Kind::kGpr, kGprIndex[i], 8, pointer ? "data_ptr" : "int64"});
  }
  core.registers.push_back({"rip", Kind::kRip, 0, 8, "code_ptr"});
  core.registers.push_back({"eflags", Kind::kRflags, 0, 4, "i386_eflags"});
  const std::pair<const char*, uint8_t> selectors[] = {{"cs", cpu::kCs}, {"ss", cpu::kSs}, {"ds", cpu::kDs},
                                                       {"es", cpu::kEs}, {"fs", cpu::kFs}, {"gs", cpu::kGs}};
  for (auto [name, index] : selectors) core.registers.push_back({name, Kind::kSelector, index, 4, "int32"});
  for (uint8_t i = 0; i < 8; ++i) core.registers.push_back({fmt::format("st{}", i), Kind::kX87, i, 10, "i387_ext"});
  constexpr const char* kControlNames[] = {"fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"};
  for (uint8_t i = 0; i < 8; ++i) core.registers.push_back({kControlNames[i], Kind::kX87Control, i, 4, "int"});
  sets.push_back(std::move(core));

  FeatureSet sse{"org.gnu.gdb.i386.sse", kVectorTypes, {}};
  for (uint8_t i = 0; i < 16; ++i) sse.registers.push_back({fmt::format("xmm{}", i), Kind::kXmm, i, 16, "vec128"});
  sse.registers.push_back({"mxcsr", Kind::kMxcsr, 0, 4, "int"});
  sets.push_back(std::move(sse));

  FeatureSet avx{"org.gnu.gdb.i386.avx", "", {}};
  for (uint8_t i = 0; i < 16; ++i)
    avx.registers.push_back({fmt::format("ymm{}h", i), Kind::kYmmHigh, i, 16, "uint128"});
  sets.push_back(std::move(avx));

  if (cpu::host_avx512_layout().present()) sets.push_back(avx512_features());

  FeatureSet segments{"org.gnu.gdb.i386.segments", "", {}};
  segments.registers.push_back({"fs_base", Kind::kSegmentBase, cpu::kFs, 8, "int"});
  segments.registers.push_back({"gs_base", Kind::kSegmentBase, cpu::kGs, 8, "int"});
  sets.push_back(std::move(segments));

  FeatureSet system{"org.rhea.x86.system", "", {}};
  constexpr const char* kSystemNames[] = {"cr0", "cr2", "cr3", "cr4", "efer", "k_gs_base"};
  for (uint8_t i = 0; i < 6; ++i) system.registers.push_back({kSystemNames[i], Kind::kSystem, i, 8, "int64"});
  sets.push_back(std::move(system));
  return sets;
}

const std::vector<FeatureSet>& feature_sets() {
  static const std::vector<FeatureSet> kSets = make_features();
  return kSets;
}

const Register& find_register(unsigned number) {
  for (const FeatureSet& set : feature_sets()) {
    if (number < set.registers.size()) return set.registers[number];
    number -= static_cast<unsigned>(set.registers.size());
  }
  RHEA_UNREACHABLE();
}

std::vector<uint8_t> bytes_of(uint64_t value, unsigned size_bytes) {
  std::vector<uint8_t> bytes(size_bytes);
  for (unsigned i = 0; i < size_bytes && i < 8; ++i) bytes[i] = static_cast<uint8_t>(value >> (8 * i));
  return bytes;
}

uint64_t value_of(std::span<const uint8_t> bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes.size() && i < 8; ++i) value |= uint64_t{bytes[i]} << (8 * i);
  return value;
}

template <class T>
T get(const CpuState& state, size_t offset) {
  T value;
  std::memcpy(&value, &state.xsave[offset], sizeof value);
  return value;
}
template <class T>
void put(CpuState& state, size_t offset, T value) {
  std::memcpy(&state.xsave[offset], &value, sizeof value);
}

bool component_present(const CpuState& state, uint64_t component) {
  return get<uint64_t>(state, kXstateBv) & component;
}

// A component in its initial state has anything in the area: make the area say what the initial state is.
void materialise(CpuState& state, uint64_t component) {
  if (component_present(state, component)) return;
  if (component == kX87State) {
    std::memset(&state.xsave[0], 0, kMxcsrOffset);
    std::memset(&state.xsave[kSt0], 0, kXmm0 - kSt0);
    put<uint16_t>(state, kFcw, 0x37f);
  } else if (component == kSseState) {
    std::memset(&state.xsave[kXmm0], 0, 256);
  } else if (component == kAvxState) {
    std::memset(&state.xsave[kYmmHigh0], 0, 256);
  } else {
    const cpu::Avx512Layout& layout = cpu::host_avx512_layout();
    const bool masks = component == cpu::kMaskComponent, upper = component == cpu::kUpperZmmComponent;
    std::memset(&state.xsave[masks   ? layout.masks
                             : upper ? layout.upper_zmm
                                     : layout.high_zmm],
                0,
                masks   ? 64
                : upper ? 512
                        : 1024);
  }
  put<uint64_t>(state, kXstateBv, get<uint64_t>(state, kXstateBv) | component);
}

// The full tag word out of the abridged one and the registers. [SDM-1 8.1.7, SDM-2A FXSAVE]
uint16_t full_tags(const CpuState& state) {
  uint8_t abridged = get<uint8_t>(state, kFtw);
  unsigned top = (get<uint16_t>(state, kFsw) >> 11) & 7;
  uint16_t tags = 0;
  for (unsigned physical = 0; physical < 8; ++physical) {
    unsigned tag = 3;  // empty
    if (abridged & (1u << physical)) {
      unsigned st = (physical - top) & 7;
      uint64_t mantissa = get<uint64_t>(state, kSt0 + 16 * st);
      unsigned exponent = get<uint16_t>(state, kSt0 + 16 * st + 8) & 0x7fff;
      if (exponent == 0 && mantissa == 0)
        tag = 1;
      else if (exponent == 0 || exponent == 0x7fff || !(mantissa >> 63))
        tag = 2;
      else
        tag = 0;
    }
    tags = static_cast<uint16_t>(tags | tag << (2 * physical));
  }
  return tags;
}

uint64_t read_x87_control(const CpuState& state, uint8_t index) {
  if (!component_present(state, kX87State)) return index == kFctrl ? 0x37f : index == kFtag ? 0xffff : 0;
  switch (index) {
    case kFctrl: return get<uint16_t>(state, kFcw);
    case kFstat: return get<uint16_t>(state, kFsw);
    case kFtag: return full_tags(state);
    case kFiseg: return get<uint32_t>(state, kFip + 4);
    case kFioff: return get<uint32_t>(state, kFip);
    case kFoseg: return get<uint32_t>(state, kFdp + 4);
    case kFooff: return get<uint32_t>(state, kFdp);
    default: return get<uint16_t>(state, kFop16) & 0x7ff;
  }
}

void write_x87_control(CpuState& state, uint8_t index, uint64_t value) {
  materialise(state, kX87State);
  switch (index) {
    case kFctrl: return put(state, kFcw, static_cast<uint16_t>(value));
    case kFstat: return put(state, kFsw, static_cast<uint16_t>(value));
    case kFtag: {
      uint8_t abridged = 0;
      for (unsigned i = 0; i < 8; ++i)
        if (((value >> (2 * i)) & 3) != 3) abridged = static_cast<uint8_t>(abridged | 1u << i);
      return put(state, kFtw, abridged);
    }
    case kFiseg: return put(state, kFip + 4, static_cast<uint32_t>(value));
    case kFioff: return put(state, kFip, static_cast<uint32_t>(value));
    case kFoseg: return put(state, kFdp + 4, static_cast<uint32_t>(value));
    case kFooff: return put(state, kFdp, static_cast<uint32_t>(value));
    default: return put(state, kFop16, static_cast<uint16_t>(value & 0x7ff));
  }
}

uint64_t read_system(const CpuState& state, uint8_t index) {
  switch (index) {
    case kCr0: return state.cr0;
    case kCr2: return state.cr2;
    case kCr3: return state.cr3;
    case kCr4: return state.cr4;
    case kEfer: return state.efer;
    default: return state.kernel_gs_base;
  }
}

bool canonical(uint64_t address) {
  int64_t top = static_cast<int64_t>(address) >> 47;
  return top == 0 || top == -1;
}

std::vector<uint8_t> read_vector(const CpuState& state, uint64_t component, size_t offset, unsigned size_bytes) {
  std::vector<uint8_t> bytes(size_bytes);
  if (component_present(state, component)) std::memcpy(bytes.data(), &state.xsave[offset], size_bytes);
  return bytes;
}

void write_vector(CpuState& state, uint64_t component, size_t offset, std::span<const uint8_t> value) {
  materialise(state, component);
  std::memcpy(&state.xsave[offset], value.data(), value.size());
}

struct Place {
  uint64_t component;
  size_t offset;
};
Place avx512_place(const Register& reg) {
  const cpu::Avx512Layout& layout = cpu::host_avx512_layout();
  switch (reg.kind) {
    case Kind::kMask: return {cpu::kMaskComponent, layout.masks + 8u * reg.index};
    case Kind::kUpperZmm: return {cpu::kUpperZmmComponent, layout.upper_zmm + 32u * reg.index};
    case Kind::kHighXmm: return {cpu::kHighZmmComponent, layout.high_zmm + 64u * reg.index};
    case Kind::kHighYmm: return {cpu::kHighZmmComponent, layout.high_zmm + 64u * reg.index + 16};
    default: return {cpu::kHighZmmComponent, layout.high_zmm + 64u * reg.index + 32};
  }
}

// As for the upper halves of YMM: what the guest has not enabled stays in its initial state.
bool write_avx512(CpuState& state, const Register& reg, std::span<const uint8_t> value) {
  if ((state.xcr0 & kAvx512States) != kAvx512States)
    return std::all_of(value.begin(), value.end(), [](uint8_t byte) { return byte == 0; });
  const Place place = avx512_place(reg);
  write_vector(state, place.component, place.offset, value);
  return true;
}

std::string describe_target() {
  std::string xml =
      "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target>\n"
      "<architecture>i386:x86-64</architecture>\n";
  for (const FeatureSet& set : feature_sets()) {
    xml += fmt::format("<feature name=\"{}\">\n{}", set.name, set.types);
    for (const Register& reg : set.registers)
      xml += fmt::format("<reg name=\"{}\" bitsize=\"{}\" type=\"{}\"/>\n", reg.name, reg.size_bytes * 8, reg.type);
    xml += "</feature>\n";
  }
  return xml + "</target>\n";
}

}  // namespace

unsigned register_count() {
  unsigned count = 0;
  for (const FeatureSet& set : feature_sets()) count += static_cast<unsigned>(set.registers.size());
  return count;
}

unsigned register_bytes(unsigned number) { return find_register(number).size_bytes; }

const std::string& target_description() {
  static const std::string kXml = describe_target();
  return kXml;
}

std::vector<uint8_t> read_register(const CpuState& state, unsigned number) {
  const Register& reg = find_register(number);
  switch (reg.kind) {
    case Kind::kGpr: return bytes_of(state.gpr[reg.index], 8);
    case Kind::kRip: return bytes_of(state.rip, 8);
    case Kind::kRflags: return bytes_of(state.rflags, 4);
    case Kind::kSelector: return bytes_of(state.segment[reg.index].selector, 4);
    case Kind::kSegmentBase: return bytes_of(state.segment[reg.index].base, 8);
    case Kind::kX87: return read_vector(state, kX87State, kSt0 + 16u * reg.index, 10);
    case Kind::kX87Control: return bytes_of(read_x87_control(state, reg.index), 4);
    case Kind::kXmm: return read_vector(state, kSseState, kXmm0 + 16u * reg.index, 16);
    case Kind::kMxcsr: return bytes_of(get<uint32_t>(state, kMxcsrOffset), 4);
    case Kind::kYmmHigh: return read_vector(state, kAvxState, kYmmHigh0 + 16u * reg.index, 16);
    case Kind::kMask:
    case Kind::kUpperZmm:
    case Kind::kHighXmm:
    case Kind::kHighYmm:
    case Kind::kHighZmm: {
      const Place place = avx512_place(reg);
      return read_vector(state, place.component, place.offset, reg.size_bytes);
    }
    case Kind::kSystem: return bytes_of(read_system(state, reg.index), 8);
  }
  RHEA_UNREACHABLE();
}

bool set_rip(CpuState& state, uint64_t address) {
  if (!canonical(address)) return false;
  state.rip = address;
  return true;
}

bool write_register(CpuState& state, unsigned number, std::span<const uint8_t> value) {
  const Register& reg = find_register(number);
  RHEA_CHECK(value.size() == reg.size_bytes);
  const uint64_t integer = value_of(value);
  switch (reg.kind) {
    case Kind::kGpr: state.gpr[reg.index] = integer; return true;
    case Kind::kRip: return set_rip(state, integer);
    case Kind::kRflags: {
      using namespace cpu::rflags;
      constexpr uint64_t kWritable = kArithmetic | kTf | kIf | kDf | kIopl | kNt | kRf | kAc | kId;
      state.rflags = (state.rflags & ~kWritable) | (integer & kWritable) | kFixed1;
      return true;
    }
    case Kind::kSegmentBase:
      if (!canonical(integer)) return false;
      state.segment[reg.index].base = integer;
      return true;
    case Kind::kX87: write_vector(state, kX87State, kSt0 + 16u * reg.index, value); return true;
    case Kind::kX87Control: write_x87_control(state, reg.index, integer); return true;
    case Kind::kXmm: write_vector(state, kSseState, kXmm0 + 16u * reg.index, value); return true;
    case Kind::kMxcsr: put<uint32_t>(state, kMxcsrOffset, static_cast<uint32_t>(integer & 0xffff)); return true;
    case Kind::kYmmHigh:
      // Without AVX in the guest the state must stay initial: the engine may have nowhere to load it.
      if (!(state.xcr0 & kAvxState)) return value_of(value) == 0;
      write_vector(state, kAvxState, kYmmHigh0 + 16u * reg.index, value);
      return true;
    case Kind::kMask:
    case Kind::kUpperZmm:
    case Kind::kHighXmm:
    case Kind::kHighYmm:
    case Kind::kHighZmm: return write_avx512(state, reg, value);
    case Kind::kSelector:
    case Kind::kSystem: return read_register(state, number) == std::vector<uint8_t>(value.begin(), value.end());
  }
  RHEA_UNREACHABLE();
}

}  // namespace rhea::debug
