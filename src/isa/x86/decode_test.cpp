// SPDX-License-Identifier: Apache-2.0
// The decoder on chosen encodings, on everything the generator writes, and on truncated and overlong input.
#include <gtest/gtest.h>

#include <initializer_list>

#include "isa/x86/disasm.h"
#include "isa/x86/generate.h"
#include "isa/x86/rows.h"

namespace rhea::isa::x86 {
namespace {

struct Decoded {
  DecodeStatus status;
  Insn insn;
};

Decoded decode_bytes(std::initializer_list<uint8_t> bytes, CpuMode mode = CpuMode::k64) {
  Decoded result{};
  result.status = decode(std::span(bytes.begin(), bytes.size()), mode, result.insn);
  return result;
}

std::string text(std::initializer_list<uint8_t> bytes, CpuMode mode = CpuMode::k64, uint64_t ip = 0x1000) {
  const Decoded decoded = decode_bytes(bytes, mode);
  switch (decoded.status) {
    case DecodeStatus::kOk: break;
    case DecodeStatus::kNeedMore: return "(more)";
    case DecodeStatus::kInvalid: return "(bad)";
    case DecodeStatus::kTooLong: return "(long)";
  }
  EXPECT_EQ(decoded.insn.length, bytes.size());
  return disassemble(decoded.insn, ip);
}

TEST(Decode, OperandSizes) {
  EXPECT_EQ(text({0x89, 0xd8}), "mov    eax,ebx");
  EXPECT_EQ(text({0x48, 0x89, 0xd8}), "mov    rax,rbx");
  EXPECT_EQ(text({0x66, 0x89, 0xd8}), "mov    ax,bx");
  EXPECT_EQ(text({0x66, 0x48, 0x89, 0xd8}), "mov    rax,rbx");
  EXPECT_EQ(text({0x89, 0xd8}, CpuMode::k16), "mov    ax,bx");
  EXPECT_EQ(text({0x66, 0x89, 0xd8}, CpuMode::k16), "mov    eax,ebx");
  EXPECT_EQ(text({0x66, 0x98}), "cbw");
  EXPECT_EQ(text({0x98}), "cwde");
  EXPECT_EQ(text({0x48, 0x98}), "cdqe");
  EXPECT_EQ(text({0x50}), "push   rax");
  EXPECT_EQ(text({0x66, 0x50}), "push   ax");
  EXPECT_EQ(text({0x63, 0xc8}), "movsxd ecx,eax");
  EXPECT_EQ(text({0x63, 0xc8}, CpuMode::k32), "arpl   ax,cx");
  EXPECT_EQ(text({0xcf}), "iretd");
  EXPECT_EQ(text({0x48, 0xcf}), "iretq");
  EXPECT_EQ(text({0x66, 0xcf}), "iret");
  EXPECT_EQ(text({0xe3, 0x00}), "jrcxz  0x1002");
  EXPECT_EQ(text({0x67, 0xe3, 0x00}), "jecxz  0x1003");
}

TEST(Decode, ByteRegisters) {
  EXPECT_EQ(text({0x88, 0xe0}), "mov    al,ah");
  EXPECT_EQ(text({0x40, 0x88, 0xe0}), "mov    al,spl");
  EXPECT_EQ(text({0x41, 0x88, 0xe0}), "mov    r8b,spl");
  const Decoded decoded = decode_bytes({0x88, 0xf0});
  EXPECT_TRUE(decoded.insn.operands[1].high_byte);
  EXPECT_EQ(decoded.insn.operands[1].reg, 2);
  EXPECT_EQ(decoded.insn.operand_size, 1);
}

TEST(Decode, RexCountsOnlyBeforeTheOpcode) {
  EXPECT_EQ(text({0x48, 0x66, 0x89, 0xd8}), "mov    ax,bx");
  EXPECT_EQ(text({0x66, 0x48, 0x41, 0x89, 0xd8}), "mov    r8w,bx");
  EXPECT_EQ(text({0x48}, CpuMode::k32), "dec    eax");
}

TEST(Decode, MandatoryPrefixes) {
  EXPECT_EQ(text({0x0f, 0x10, 0xc1}), "movups xmm0,xmm1");
  EXPECT_EQ(text({0x66, 0x0f, 0x10, 0xc1}), "movupd xmm0,xmm1");
  EXPECT_EQ(text({0xf3, 0x0f, 0x10, 0xc1}), "movss  xmm0,xmm1");
  EXPECT_EQ(text({0xf2, 0x66, 0x0f, 0x10, 0xc1}), "movsd  xmm0,xmm1");
  EXPECT_EQ(text({0xf2, 0xf3, 0x0f, 0x10, 0xc1}), "movss  xmm0,xmm1");
  EXPECT_EQ(text({0x0f, 0xbc, 0xc1}), "bsf    eax,ecx");
  EXPECT_EQ(text({0xf3, 0x0f, 0xbc, 0xc1}), "tzcnt  eax,ecx");
  EXPECT_EQ(text({0x66, 0xf3, 0x0f, 0xbd, 0xc1}), "lzcnt  ax,cx");
  EXPECT_EQ(text({0xf3, 0x0f, 0xb8, 0xc1}), "popcnt eax,ecx");
  EXPECT_EQ(text({0x0f, 0xb8, 0xc1}), "(bad)");
  EXPECT_EQ(text({0x0f, 0x38, 0xf0, 0x01}), "movbe  eax,DWORD PTR [rcx]");
  EXPECT_EQ(text({0x66, 0x0f, 0x38, 0xf0, 0x01}), "movbe  ax,WORD PTR [rcx]");
  EXPECT_EQ(text({0xf2, 0x0f, 0x38, 0xf0, 0xc1}), "crc32  eax,cl");
  EXPECT_EQ(text({0x66, 0xf2, 0x0f, 0x38, 0xf1, 0xc1}), "crc32  eax,cx");
  EXPECT_EQ(text({0x66, 0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc1}), "crc32  rax,rcx");
  EXPECT_EQ(text({0x0f, 0x38, 0xf0, 0xc1}), "(bad)") << "MOVBE has no register form";
  EXPECT_EQ(text({0x66, 0x0f, 0x38, 0xf6, 0xc1}), "adcx   eax,ecx");
  EXPECT_EQ(text({0x66, 0xf3, 0x0f, 0x38, 0xf6, 0xc1}), "adox   eax,ecx");
}

TEST(Decode, WithoutTheFeature) {
  Insn insn = decode_bytes({0xf3, 0x0f, 0xbc, 0xc1}).insn;
  ASSERT_TRUE(substitute_without_feature(insn));
  EXPECT_EQ(insn.row, RowId::BSF_Gv_Ev);
  EXPECT_EQ(insn.mandatory_prefix, 0);
  EXPECT_EQ(insn.operands[0].access, OperandAccess::kReadWrite);
  EXPECT_EQ(disassemble(insn, 0), "bsf    eax,ecx");
  insn = decode_bytes({0x66, 0xf3, 0x0f, 0xbd, 0xc1}).insn;
  ASSERT_TRUE(substitute_without_feature(insn));
  EXPECT_EQ(disassemble(insn, 0), "bsr    ax,cx");
  insn = decode_bytes({0xf3, 0x0f, 0xb8, 0xc1}).insn;
  EXPECT_FALSE(substitute_without_feature(insn)) << "POPCNT";
}

TEST(Decode, NopPauseXchg) {
  EXPECT_EQ(text({0x90}), "nop");
  EXPECT_EQ(text({0xf3, 0x90}), "pause");
  EXPECT_EQ(text({0x41, 0x90}), "xchg   r8d,eax");
  EXPECT_EQ(text({0xf3, 0x41, 0x90}), "xchg   r8d,eax");
  EXPECT_EQ(text({0xf3, 0x0f, 0x1e, 0xfa}), "endbr64");
  EXPECT_EQ(text({0x0f, 0x1e, 0xfa}), "nop    edx");
}

TEST(Decode, Memory) {
  EXPECT_EQ(text({0x48, 0x8b, 0x44, 0x8d, 0x10}), "mov    rax,QWORD PTR [rbp+rcx*4+0x10]");
  EXPECT_EQ(text({0x8b, 0x05, 0x10, 0, 0, 0}), "mov    eax,DWORD PTR [rip+0x10]        # 0x1016");
  EXPECT_EQ(text({0x8b, 0x05, 0x10, 0, 0, 0}, CpuMode::k32), "mov    eax,DWORD PTR ds:0x10");
  EXPECT_EQ(text({0x8b, 0x04, 0x25, 0x10, 0, 0, 0}), "mov    eax,DWORD PTR ds:0x10");
  EXPECT_EQ(text({0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0}), "mov    rax,QWORD PTR fs:0x28");
  EXPECT_EQ(text({0x8b, 0x40, 0xf8}, CpuMode::k16), "mov    ax,WORD PTR [bx+si-0x8]");
  EXPECT_EQ(text({0x8b, 0x46, 0x00}, CpuMode::k16), "mov    ax,WORD PTR [bp+0x0]");
  EXPECT_EQ(text({0x8b, 0x0e, 0x34, 0x12}, CpuMode::k16), "mov    cx,WORD PTR ds:0x1234");
  EXPECT_EQ(text({0x67, 0x8b, 0x00}, CpuMode::k16), "mov    ax,WORD PTR [eax]");
  EXPECT_EQ(text({0x67, 0x8b, 0x00}), "mov    eax,DWORD PTR [eax]");
  EXPECT_EQ(text({0x43, 0x8b, 0x44, 0x25, 0x00}), "mov    eax,DWORD PTR [r13+r12*1+0x0]");
}

TEST(Decode, EffectiveSegment) {
  EXPECT_EQ(decode_bytes({0x8b, 0x45, 0x00}).insn.mem.segment, 2);        // [rbp]
  EXPECT_EQ(decode_bytes({0x41, 0x8b, 0x45, 0x00}).insn.mem.segment, 3);  // [r13]
  EXPECT_EQ(decode_bytes({0x8b, 0x04, 0x24}).insn.mem.segment, 2);        // [rsp]
  EXPECT_EQ(decode_bytes({0x41, 0x8b, 0x04, 0x24}).insn.mem.segment, 3);  // [r12]
  EXPECT_EQ(decode_bytes({0x36, 0x8b, 0x00}).insn.mem.segment, 3);        // SS ignored
  EXPECT_EQ(decode_bytes({0x36, 0x8b, 0x00}, CpuMode::k32).insn.mem.segment, 2);
  EXPECT_EQ(decode_bytes({0x64, 0x3e, 0x8b, 0x00}).insn.mem.segment, 4);  // DS ignored
  EXPECT_EQ(decode_bytes({0x65, 0xa4}).insn.mem.segment, 5);              // MOVS: the source
  EXPECT_EQ(decode_bytes({0x65, 0xaa}).insn.mem.segment, 0);              // STOS: always ES
}

TEST(Decode, Immediates) {
  EXPECT_EQ(decode_bytes({0x48, 0x81, 0xc0, 0xff, 0xff, 0xff, 0xff}).insn.imm, -1);
  EXPECT_EQ(decode_bytes({0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 0x88}).insn.imm, static_cast<int64_t>(0x8807060504030201));
  EXPECT_EQ(decode_bytes({0xb8, 0xff, 0xff, 0xff, 0xff}).insn.imm, 0xffffffff);
  EXPECT_EQ(decode_bytes({0x83, 0xc0, 0x80}).insn.imm, -128);
  const Decoded enter = decode_bytes({0xc8, 0x34, 0x12, 0x05});
  EXPECT_EQ(enter.insn.imm, 0x1234);
  EXPECT_EQ(enter.insn.imm2, 5);
  EXPECT_EQ(enter.insn.imm_bytes, 3);
  const Decoded far_call = decode_bytes({0x9a, 1, 2, 3, 4, 5, 6}, CpuMode::k32);
  EXPECT_EQ(far_call.insn.imm, 0x04030201);
  EXPECT_EQ(far_call.insn.imm2, 0x0605);
  EXPECT_EQ(text({0x48, 0xa1, 1, 2, 3, 4, 5, 6, 7, 8}), "mov    rax,QWORD PTR ds:0x807060504030201");
  EXPECT_EQ(text({0xe8, 0xfb, 0xff, 0xff, 0xff}), "call   0x1000");
  EXPECT_EQ(text({0x66, 0xe8, 0xfa, 0xff, 0xff, 0xff}), "call   0x1000") << "Intel: 66 does not shorten it";
}

TEST(Decode, Lock) {
  EXPECT_EQ(text({0xf0, 0x01, 0x00}), "lock add DWORD PTR [rax],eax");
  EXPECT_EQ(text({0xf0, 0x01, 0xc0}), "(bad)");
  EXPECT_EQ(text({0xf0, 0x03, 0x00}), "(bad)");
  EXPECT_EQ(text({0xf0, 0x39, 0x00}), "(bad)") << "CMP";
  EXPECT_EQ(text({0xf0, 0x90}), "(bad)");
  EXPECT_EQ(text({0xf0, 0x0f, 0xc7, 0x08}), "lock cmpxchg8b QWORD PTR [rax]");
  EXPECT_EQ(text({0xf0, 0x48, 0x0f, 0xc7, 0x08}), "lock cmpxchg16b XMMWORD PTR [rax]");
}

TEST(Decode, Vex) {
  EXPECT_EQ(text({0xc5, 0xf5, 0x58, 0xc2}), "vaddpd ymm0,ymm1,ymm2");
  EXPECT_EQ(text({0xc4, 0xc1, 0x75, 0x58, 0xc2}), "vaddpd ymm0,ymm1,ymm10");
  EXPECT_EQ(text({0x66, 0xc5, 0xf5, 0x58, 0xc2}), "(bad)");
  EXPECT_EQ(text({0x48, 0xc5, 0xf5, 0x58, 0xc2}), "(bad)");
  EXPECT_EQ(text({0xf0, 0xc5, 0xf5, 0x58, 0xc2}), "(bad)");
  EXPECT_EQ(text({0xc5, 0xf1, 0x6f, 0xc2}), "(bad)") << "VMOVDQA has no second source";
  EXPECT_EQ(text({0xc5, 0xf9, 0x6f, 0xc2}), "vmovdqa xmm0,xmm2");
  EXPECT_EQ(text({0xc5, 0x00}, CpuMode::k32), "lds    eax,FWORD PTR [eax]");
  EXPECT_EQ(text({0xc4, 0x00}, CpuMode::k32), "les    eax,FWORD PTR [eax]");
  EXPECT_EQ(text({0xc5, 0xf5, 0x58, 0xc2}, CpuMode::k32), "vaddpd ymm0,ymm1,ymm2");
  EXPECT_EQ(text({0x62, 0x00}, CpuMode::k32), "bound  eax,QWORD PTR [eax]");
  EXPECT_EQ(text({0xc4, 0xe3, 0x69, 0x4b, 0xc1, 0x70}), "vblendvpd xmm0,xmm2,xmm1,xmm7");
  EXPECT_EQ(text({0xc4, 0xe2, 0x69, 0x92, 0x04, 0x0f}), "vgatherdps xmm0,DWORD PTR [rdi+xmm1*1],xmm2");
  EXPECT_EQ(text({0xc4, 0xe2, 0x79, 0x92, 0x04, 0x0f}), "(bad)") << "mask and destination equal";
  EXPECT_EQ(text({0xc4, 0xe2, 0x69, 0x92, 0x07}), "(bad)") << "needs a SIB byte";
}

TEST(Decode, SystemRegisters) {
  EXPECT_EQ(text({0x0f, 0x20, 0xc0}), "mov    rax,cr0");
  EXPECT_EQ(text({0x0f, 0x20, 0x00}), "mov    rax,cr0") << "mod is ignored";
  EXPECT_EQ(text({0x0f, 0x20, 0xc8}), "(bad)") << "no CR1";
  EXPECT_EQ(text({0x44, 0x0f, 0x22, 0xc0}), "mov    cr8,rax");
  EXPECT_EQ(text({0x0f, 0x23, 0xf8}), "mov    dr7,rax");
  EXPECT_EQ(text({0x8e, 0xc8}), "(bad)") << "no MOV to CS";
  EXPECT_EQ(text({0x8c, 0xf0}), "(bad)") << "no segment register 6";
  EXPECT_EQ(text({0x0f, 0x01, 0xf8}), "swapgs");
  EXPECT_EQ(text({0x0f, 0x01, 0xf8}, CpuMode::k32), "(bad)");
}

TEST(Decode, NeedsMoreAndTooLong) {
  EXPECT_EQ(text({}), "(more)");
  EXPECT_EQ(text({0x48}), "(more)");
  EXPECT_EQ(text({0x48, 0x8b}), "(more)");
  EXPECT_EQ(text({0x48, 0x8b, 0x84, 0x00, 0, 0, 0}), "(more)");
  std::vector<uint8_t> prefixes(14, 0x66);
  Insn insn;
  prefixes.push_back(0x90);
  EXPECT_EQ(decode(prefixes, CpuMode::k64, insn), DecodeStatus::kOk);
  EXPECT_EQ(insn.length, 15);
  prefixes.insert(prefixes.begin(), 0x66);
  EXPECT_EQ(decode(prefixes, CpuMode::k64, insn), DecodeStatus::kTooLong);
  prefixes.pop_back();
  EXPECT_EQ(decode(prefixes, CpuMode::k64, insn), DecodeStatus::kTooLong);
  prefixes.pop_back();
  EXPECT_EQ(decode(prefixes, CpuMode::k64, insn), DecodeStatus::kNeedMore);
}

TEST(Decode, InvalidIn64BitMode) {
  for (uint8_t opcode : {0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37,
                         0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4, 0xd5, 0xd6, 0xea}) {
    const uint8_t bytes[16] = {opcode, 0xc0};
    Insn insn;
    EXPECT_EQ(decode(bytes, CpuMode::k64, insn), DecodeStatus::kInvalid) << unsigned{opcode};
    EXPECT_EQ(decode(bytes, CpuMode::k32, insn), DecodeStatus::kOk) << unsigned{opcode};
  }
}

TEST(Decode, FormsWithout64BitEncodingAreRewritten) {
  const Insn increment = decode_bytes({0x43}, CpuMode::k32).insn;
  EXPECT_EQ(increment.row, RowId::INC_Zv);
  EXPECT_EQ(increment.opcode, 0xff);
  EXPECT_EQ(increment.modrm, 0xc3);
  EXPECT_TRUE(increment.has_modrm);
  EXPECT_EQ(decode_bytes({0x4f}, CpuMode::k32).insn.modrm, 0xcf);
  EXPECT_EQ(decode_bytes({0x82, 0xc0, 0x01}, CpuMode::k32).insn.opcode, 0x80);
}

class EveryForm : public testing::TestWithParam<CpuMode> {};

// Every row that exists in a mode can be generated in every form, and decodes to itself; every proper prefix of an
// encoding asks for more bytes.
TEST_P(EveryForm, RoundTrip) {
  Rng random(1);
  unsigned combinations = 0;
  for (unsigned id = 0; id < row_count(); ++id) {
    const auto row = static_cast<RowId>(id);
    for (const FormSpec& form : forms(row, GetParam())) {
      ++combinations;
      for (int i = 0; i < 4; ++i) {
        std::vector<uint8_t> bytes;
        GenerateOptions options{.mode = GetParam(), .form = form};
        options.redundant_prefixes = i & 1;
        ASSERT_TRUE(generate(row, options, random, bytes))
            << row_info(row).name << " form " << int(form.form) << " size " << int(form.operand_size);
        Insn insn;
        ASSERT_EQ(decode(bytes, GetParam(), insn), DecodeStatus::kOk);
        for (const Operand& operand : insn.operands) {
          ASSERT_TRUE(operand.kind == OperandKind::kNone ||
                      operand.implicit == (operand.source == OperandSource::kImplicit))
              << row_info(row).name;
        }
        for (size_t length = 0; length < bytes.size(); ++length)
          ASSERT_EQ(decode(std::span(bytes).first(length), GetParam(), insn), DecodeStatus::kNeedMore)
              << row_info(row).name << " " << length;
      }
    }
  }
  EXPECT_GT(combinations, 2000u);
}
INSTANTIATE_TEST_SUITE_P(Modes, EveryForm, testing::Values(CpuMode::k16, CpuMode::k32, CpuMode::k64));

}  // namespace
}  // namespace rhea::isa::x86
