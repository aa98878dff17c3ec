// SPDX-License-Identifier: Apache-2.0
// The decoder and disassembler against GNU objdump: random valid encodings of every row in every mode, compared by
// length and by text. Skipped where objdump is not installed.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "isa/x86/disasm.h"
#include "isa/x86/generate.h"
#include "isa/x86/rows.h"

namespace rhea::isa::x86 {
namespace {

// Each encoding gets a slot, filled up with NOPs, so that objdump is in step again at the next one.
constexpr size_t kSlotBytes = 32;
constexpr int kRoundsPerForm = 8;

struct Sample {
  RowId row;
  std::vector<uint8_t> bytes;
};

std::vector<Sample> make_samples(CpuMode mode) {
  std::vector<Sample> samples;
  Rng random(static_cast<uint64_t>(mode) + 7);
  for (unsigned id = 0; id < row_count(); ++id)
    for (const FormSpec& form : forms(static_cast<RowId>(id), mode))
      for (int round = 0; round < kRoundsPerForm; ++round) {
        GenerateOptions options{.mode = mode, .form = form, .allowed_indexes = 0xffff};
        options.allow_rip_relative = true;
        if (random.chance(1, 2)) options.displacement_min = -40000, options.displacement_max = 32767;
        if (random.chance(1, 8)) options.allowed_bases = 0;
        if (form.form == Form::kMemory && random.chance(1, 8)) options.address_size = 4;
        if (form.form == Form::kMemory && mode == CpuMode::k32 && random.chance(1, 8))
          options.address_size = 2, options.displacement_min = -128;
        if (form.form == Form::kMemory && random.chance(1, 4))
          options.segment = mode == CpuMode::k64 ? 4 + random.below(2) : random.below(6);
        Sample sample{static_cast<RowId>(id), {}};
        if (generate(sample.row, options, random, sample.bytes)) samples.push_back(std::move(sample));
      }
  return samples;
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string path = (std::filesystem::temp_directory_path() / "rhea-isa-XXXXXX").string();
    if (mkdtemp(path.data())) path_ = path;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Address to text of every line that objdump prints.
std::map<uint64_t, std::string> run_objdump(const std::vector<Sample>& samples, const char* options) {
  TemporaryDirectory directory;
  const std::filesystem::path file = directory.path() / "code.bin";
  {
    std::ofstream out(file, std::ios::binary);
    for (const Sample& sample : samples) {
      std::vector<uint8_t> slot(kSlotBytes, 0x90);
      std::copy(sample.bytes.begin(), sample.bytes.end(), slot.begin());
      out.write(reinterpret_cast<const char*>(slot.data()), kSlotBytes);
    }
  }
  const std::string command =
      "objdump -D -w -z --no-show-raw-insn -b binary " + std::string(options) + " " + file.string();
  std::map<uint64_t, std::string> lines;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return lines;
  char line[512];
  while (fgets(line, sizeof line, pipe)) {
    char* end = nullptr;
    const uint64_t address = strtoull(line, &end, 16);
    if (end == line || *end != ':') continue;
    std::string text = end + 1;
    text.erase(0, text.find_first_not_of(" \t"));
    text.erase(text.find_last_not_of(" \t\n") + 1);
    lines[address] = text;
  }
  pclose(pipe);
  return lines;
}

bool have_objdump() { return std::system("objdump --version >/dev/null 2>&1") == 0; }

// Removes what is a matter of taste: runs of spaces, the comment with the RIP-relative address, prefixes shown as such,
// segment overrides that say what holds anyway.
std::string normalise(std::string text) {
  if (text.starts_with("rex")) text.erase(0, text.find(' ') + 1);
  for (std::string_view noise : {"{vex} ", "{evex} ", "addr32 ", "addr16 ", "data16 ", "data32 ", "ds:[", "ss:["})
    if (const size_t at = text.find(noise); at != std::string::npos)
      text.replace(at, noise.size(), noise.back() == '[' ? "[" : "");
  if (const size_t comment = text.find('#'); comment != std::string::npos) text.erase(comment);
  std::string result;
  for (char c : text)
    if (c != ' ' || (!result.empty() && result.back() != ' ')) result += c;
  while (!result.empty() && result.back() == ' ') result.pop_back();
  return result;
}

// Encodings that objdump 2.40 does not know, or knows as something that the processor treats as a NOP.
bool unknown_to_objdump(RowId row) {
  switch (row) {
    case RowId::LFENCE:
    case RowId::MFENCE:
    case RowId::SFENCE:  // any ModRM.rm
    case RowId::NOP_0D:
    case RowId::NOP_18:
    case RowId::NOP_1A:
    case RowId::NOP_1B:
    case RowId::NOP_1C:
    case RowId::PREFETCH_0D:
    case RowId::FCOM_DC:
    case RowId::FCOMP_DC:
    case RowId::FCOMP_DE:
    case RowId::FXCH_DD:
    case RowId::FXCH_DF:
    case RowId::FSTP_STi_D9:
    case RowId::FSTP_STi_DF_D0:
    case RowId::FSTP_STi_DF_D8:
    case RowId::SALC: return true;
    default: return false;
  }
}

// Rows whose text differs by convention: pseudo-mnemonics for immediates, operand lists and size keywords.
bool text_by_convention(RowId row, CpuMode mode) {
  if (mode == CpuMode::k16) {
    const Translation kind = row_info(row).translation;  // objdump lets branch targets run over 64 KiB
    if (kind == Translation::kJcc || kind == Translation::kJmpRel || kind == Translation::kCallRel ||
        kind == Translation::kLoop || kind == Translation::kJcxz)
      return true;
  }
  // A predicate in the mnemonic; "{1to4}" where the operands do not tell the length.
  const RowInfo& info = row_info(row);
  if (info.encoding.starts_with("EVEX.") && info.operands.starts_with("=kG") && info.operands.ends_with("Ib"))
    return true;
  if (info.encoding.starts_with("EVEX.") && (info.operands == "=Vh,Wx" || info.operands == "=Vf,Wx")) return true;
  switch (row) {
    case RowId::CMPPS_Vdq:
    case RowId::CMPPD_Vdq:
    case RowId::CMPSS_Vdq:
    case RowId::CMPSD_Vdq:
    case RowId::VCMPPS_Vx_Hx_Wx_Ib:
    case RowId::VCMPPD_Vx_Hx_Wx_Ib:
    case RowId::VCMPSS_Vdq_Hdq_Wd_Ib:
    case RowId::VCMPSD_Vdq_Hdq_Wq_Ib:
    case RowId::PCLMULQDQ_Vdq_Wdq_Ib:
    case RowId::VPCLMULQDQ_128:
    case RowId::VPCLMULQDQ_256:
    case RowId::EVPCLMULQDQ:  // cmpltps
    case RowId::FCOM_ST0_STi:
    case RowId::FCOMP_ST0_STi:
    case RowId::FUCOM:
    case RowId::FUCOMP:
    case RowId::FXCH:  // no ST(0)
    case RowId::FNENI:
    case RowId::FNDISI:
    case RowId::FNSETPM:
    case RowId::WAIT:
    case RowId::JCXZ_Jb:
    case RowId::CMPXCHG16B:
    case RowId::INVLPG:
    case RowId::INVPCID:
    case RowId::MOVDIR64B:
    case RowId::LDDQU_Vdq_Mdq:
    case RowId::VLDDQU_Vx_Mx:
    case RowId::SGDT:
    case RowId::SIDT:
    case RowId::LGDT:
    case RowId::LIDT:  // size of memory
    case RowId::CALL_Mp:
    case RowId::JMP_Mp:
    case RowId::LFS_Gv_Mp:
    case RowId::LGS_Gv_Mp:
    case RowId::LSS_Gv_Mp:  // Intel: m16:64
    case RowId::LAR_Gv_Ew:
    case RowId::LSL_Gv_Ew:
    case RowId::MOV_Sw_Ew:
    case RowId::MOVSXD_Gv_Ez:  // size of register
    case RowId::MOV_AL_Ob:
    case RowId::MOV_rAX_Ov:
    case RowId::MOV_Ob_AL:
    case RowId::MOV_Ov_rAX:
    case RowId::MOV_Zv_Iv:  // movabs
    case RowId::EVCVTDQ2PD:
    case RowId::EVCVTUDQ2PD:
    case RowId::EVCVTSI2SD:
    case RowId::EVCVTUSI2SD:  // rounding that is ignored
    case RowId::VMOVSS_merge_11:
    case RowId::VMOVSD_merge_11:
    case RowId::EVMOVSH_11:
    case RowId::EVMOVSS_merge_2:
    case RowId::EVMOVSD_merge_2:  // LIG
      return true;
    default: return false;
  }
}

// "leavew" for "leave", "popf" for "popfq", "notrack jmp" for "jmp".
bool same_but_for_suffix(const std::string& ours, const std::string& theirs) {
  if (theirs.starts_with("notrack ")) return theirs.substr(8) == ours;
  if (ours == theirs + "q" || ours == theirs + "d") return true;
  const size_t end = std::min(ours.find(' '), ours.size());
  return theirs.size() == ours.size() + 1 && theirs.starts_with(ours.substr(0, end)) &&
         (theirs[end] == 'w' || theirs[end] == 'd') && theirs.substr(end + 1) == ours.substr(end);
}

struct Comparison {
  CpuMode mode;
  const char* objdump_options;
};

class Objdump : public testing::TestWithParam<Comparison> {};

TEST_P(Objdump, AgreesOnLengthAndText) {
  if (!have_objdump()) GTEST_SKIP() << "objdump is not installed";
  const std::vector<Sample> samples = make_samples(GetParam().mode);
  const auto lines = run_objdump(samples, GetParam().objdump_options);
  unsigned length_failures = 0, text_failures = 0;
  std::map<RowId, int> shown;
  for (size_t i = 0; i < samples.size(); ++i) {
    const uint64_t address = i * kSlotBytes;
    const auto line = lines.find(address);
    ASSERT_NE(line, lines.end());
    const auto next = std::next(line);
    const uint64_t length = next == lines.end() ? 0 : next->first - address;
    Insn insn;
    ASSERT_EQ(decode(samples[i].bytes, GetParam().mode, insn), DecodeStatus::kOk);
    const std::string ours = normalise(disassemble(insn, address)), theirs = normalise(line->second);
    const bool shows_missing_index = theirs.find("iz*") != std::string::npos;  // "[rsp+riz*4]"
    const bool known = !unknown_to_objdump(insn.row);
    const bool bad_length = known && length != insn.length;
    const bool bad_text = known && !shows_missing_index && !text_by_convention(insn.row, GetParam().mode) &&
                          ours != theirs && !same_but_for_suffix(ours, theirs);
    length_failures += bad_length;
    text_failures += bad_text;
    if ((bad_length || bad_text) && shown[insn.row]++ < 2) {
      std::string bytes;
      for (uint8_t byte : samples[i].bytes) bytes += fmt::format("{:02x} ", byte);
      ADD_FAILURE() << row_info(insn).name << ": " << bytes << "\n  ours " << unsigned{insn.length} << ": " << ours
                    << "\n  objdump " << length << ": " << theirs;
    }
  }
  std::printf("%zu encodings, %u lengths and %u texts differ\n", samples.size(), length_failures, text_failures);
}

INSTANTIATE_TEST_SUITE_P(Modes, Objdump,
                         testing::Values(Comparison{CpuMode::k64, "-m i386:x86-64 -M intel"},
                                         Comparison{CpuMode::k32, "-m i386 -M intel"},
                                         Comparison{CpuMode::k16, "-m i8086 -M intel"}),
                         [](const auto& test) {
                           return test.param.mode == CpuMode::k64   ? "k64"
                                  : test.param.mode == CpuMode::k32 ? "k32"
                                                                    : "k16";
                         });

}  // namespace
}  // namespace rhea::isa::x86
