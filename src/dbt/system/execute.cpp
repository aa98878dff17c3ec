// SPDX-License-Identifier: Apache-2.0
// execute_system(): which function executes which row. A row of the instruction table that needs a system
// function and has none does not compile.
#include <array>

#include "dbt/system/internal.h"

namespace rhea::dbt {

namespace {

using isa::x86::RowId;
using isa::x86::Translation;

#define ROW(...) +1
constexpr size_t kRowCount = 0
#include "isa/x86/rows.inc"
    ;
#undef ROW

struct RowFunction {
  RowId row;
  SystemFunction function;
};

constexpr RowFunction kRowFunctions[] = {
    // Segment registers, stack, flags.
    {RowId::PUSH_ES, op::push},
    {RowId::PUSH_CS, op::push},
    {RowId::PUSH_SS, op::push},
    {RowId::PUSH_DS, op::push},
    {RowId::PUSH_FS, op::push},
    {RowId::PUSH_GS, op::push},
    {RowId::POP_ES, op::pop},
    {RowId::POP_SS, op::pop},
    {RowId::POP_DS, op::pop},
    {RowId::POP_FS, op::pop},
    {RowId::POP_GS, op::pop},
    {RowId::PUSH_Zv, op::push},
    {RowId::POP_Zv, op::pop},
    {RowId::PUSH_Iz, op::push},
    {RowId::PUSH_Is, op::push},
    {RowId::PUSH_Ev, op::push},
    {RowId::POP_Ev, op::pop},
    {RowId::PUSHA, op::pusha},
    {RowId::POPA, op::popa},
    {RowId::PUSHF, op::pushf},
    {RowId::POPF, op::popf},
    {RowId::ENTER_Iw_Ib, op::enter},
    {RowId::LEAVE, op::leave},
    {RowId::MOV_Ev_Sw, op::mov_segment},
    {RowId::MOV_Sw_Ew, op::mov_segment},
    {RowId::LES_Gv_Mp, op::load_far_pointer},
    {RowId::LDS_Gv_Mp, op::load_far_pointer},
    {RowId::LSS_Gv_Mp, op::load_far_pointer},
    {RowId::LFS_Gv_Mp, op::load_far_pointer},
    {RowId::LGS_Gv_Mp, op::load_far_pointer},
    {RowId::CLI, op::cli},
    {RowId::STI, op::sti},
    {RowId::CLD, op::cld},
    {RowId::STD, op::std_},
    {RowId::CLAC, op::clac},
    {RowId::STAC, op::stac},
    // Legacy arithmetic.
    {RowId::DAA, op::daa},
    {RowId::DAS, op::das},
    {RowId::AAA, op::aaa},
    {RowId::AAS, op::aas},
    {RowId::AAM_Ib, op::aam},
    {RowId::AAD_Ib, op::aad},
    {RowId::SALC, op::salc},
    {RowId::BOUND_Gv_Ma, op::bound},
    {RowId::XLAT, op::xlat},
    {RowId::ARPL_Ew_Gw, op::arpl},
    // Strings and ports.
    {RowId::MOVS_b, op::movs},
    {RowId::MOVS_v, op::movs},
    {RowId::CMPS_b, op::cmps},
    {RowId::CMPS_v, op::cmps},
    {RowId::STOS_b, op::stos},
    {RowId::STOS_v, op::stos},
    {RowId::LODS_b, op::lods},
    {RowId::LODS_v, op::lods},
    {RowId::SCAS_b, op::scas},
    {RowId::SCAS_v, op::scas},
    {RowId::INS_b, op::ins},
    {RowId::INS_v, op::ins},
    {RowId::OUTS_b, op::outs},
    {RowId::OUTS_v, op::outs},
    {RowId::IN_AL_Ib, op::in},
    {RowId::IN_eAX_Ib, op::in},
    {RowId::IN_AL_DX, op::in},
    {RowId::IN_eAX_DX, op::in},
    {RowId::OUT_Ib_AL, op::out},
    {RowId::OUT_Ib_eAX, op::out},
    {RowId::OUT_DX_AL, op::out},
    {RowId::OUT_DX_eAX, op::out},
    // Far transfers and software interrupts.
    {RowId::CALL_Ap, op::call_far},
    {RowId::CALL_Mp, op::call_far},
    {RowId::JMP_Ap, op::jmp_far},
    {RowId::JMP_Mp, op::jmp_far},
    {RowId::RETF_Iw, op::ret_far},
    {RowId::RETF, op::ret_far},
    {RowId::IRET, op::iret},
    {RowId::INT3, op::int3},
    {RowId::INT_Ib, op::int_n},
    {RowId::INT1, op::int1},
    {RowId::INTO, op::into},
    {RowId::SYSCALL, op::syscall},
    {RowId::SYSRET, op::sysret},
    {RowId::SYSENTER, op::sysenter},
    {RowId::SYSEXIT, op::sysexit},
    // Descriptor tables and selectors.
    {RowId::SLDT, op::sldt},
    {RowId::STR, op::str},
    {RowId::LLDT, op::lldt},
    {RowId::LTR, op::ltr},
    {RowId::VERR, op::verr},
    {RowId::VERW, op::verw},
    {RowId::SGDT, op::sgdt},
    {RowId::SIDT, op::sidt},
    {RowId::LGDT, op::lgdt},
    {RowId::LIDT, op::lidt},
    {RowId::SMSW, op::smsw},
    {RowId::LMSW, op::lmsw},
    {RowId::LAR_Gv_Ew, op::lar},
    {RowId::LSL_Gv_Ew, op::lsl},
    // Control.
    {RowId::MOV_Rm_Cm, op::mov_cr},
    {RowId::MOV_Cm_Rm, op::mov_cr},
    {RowId::MOV_Rm_Dm, op::mov_dr},
    {RowId::MOV_Dm_Rm, op::mov_dr},
    {RowId::CLTS, op::clts},
    {RowId::HLT, op::hlt},
    {RowId::RSM, op::rsm},
    {RowId::INVD, op::wbinvd},
    {RowId::WBINVD, op::wbinvd},
    {RowId::INVLPG, op::invlpg},
    {RowId::INVPCID, op::invpcid},
    {RowId::XGETBV, op::xgetbv},
    {RowId::XSETBV, op::xsetbv},
    {RowId::SWAPGS, op::swapgs},
    {RowId::RDFSBASE, op::rdfsbase},
    {RowId::RDGSBASE, op::rdgsbase},
    {RowId::WRFSBASE, op::wrfsbase},
    {RowId::WRGSBASE, op::wrgsbase},
    {RowId::RDMSR, op::rdmsr},
    {RowId::WRMSR, op::wrmsr},
    {RowId::RDPMC, op::rdpmc},
    {RowId::RDRAND, op::rdrand},
    {RowId::RDSEED, op::rdrand},
    {RowId::RDTSC, op::rdtsc},
    {RowId::RDTSCP, op::rdtscp},
    {RowId::RDPID, op::rdpid},
    {RowId::CPUID, op::cpuid},
    {RowId::MOVDIR64B, op::movdir64b},
    {RowId::VMCALL, op::vmcall},
    {RowId::VMMCALL, op::vmcall},
    // x87 and extended state.
    {RowId::FXSAVE, op::fxsave},
    {RowId::FXRSTOR, op::fxrstor},
    {RowId::XSAVE, op::xsave},
    {RowId::XRSTOR, op::xrstor},
    {RowId::XSAVEOPT, op::xsaveopt},
    {RowId::XSAVEC, op::xsavec},
    {RowId::XSAVES, op::xsaves},
    {RowId::XRSTORS, op::xrstors},
    {RowId::FNSTENV, op::fnstenv},
    {RowId::FLDENV, op::fldenv},
    {RowId::FNSAVE, op::fnsave},
    {RowId::FRSTOR, op::frstor},
    {RowId::FNINIT, op::fninit},
};

constexpr auto kFunctions = [] {
  std::array<SystemFunction, kRowCount> functions{};
  for (const RowFunction& entry : kRowFunctions) functions[static_cast<size_t>(entry.row)] = entry.function;
#define ROW(name, mnemonic, encoding, operands, flags, feature, attributes, translation) \
  if (Translation::translation == Translation::kUndefined)                               \
    functions[static_cast<size_t>(RowId::name)] = op::undefined_opcode;
#include "isa/x86/rows.inc"
#undef ROW
  return functions;
}();

// Whether there is a function, without a look at its address: with -fsanitize=undefined that is no constant to GCC.
constexpr auto kHasFunction = [] {
  std::array<bool, kRowCount> has{};
  for (const RowFunction& entry : kRowFunctions) has[static_cast<size_t>(entry.row)] = true;
#define ROW(name, mnemonic, encoding, operands, flags, feature, attributes, translation) \
  if (Translation::translation == Translation::kUndefined) has[static_cast<size_t>(RowId::name)] = true;
#include "isa/x86/rows.inc"
#undef ROW
  return has;
}();

// Translations that the translator hands to this folder, always or as its fallback.
constexpr bool needs_function(Translation translation) {
  switch (translation) {
    case Translation::kSystem:
    case Translation::kFpuEnv:
    case Translation::kString:
    case Translation::kPusha:
    case Translation::kPopa:
    case Translation::kPushf:
    case Translation::kPopf:
    case Translation::kEnter:
    case Translation::kLeave:
    case Translation::kCli:
    case Translation::kSti:
    case Translation::kStac:
    case Translation::kClac:
    case Translation::kRdtsc:
    case Translation::kRdtscp:
    case Translation::kRdpid:
    case Translation::kXgetbv:
    case Translation::kUndefined: return true;
    default: return false;
  }
}

#define ROW(name, mnemonic, encoding, operands, flags, feature, attributes, translation)                     \
  static_assert(!needs_function(Translation::translation) || kHasFunction[static_cast<size_t>(RowId::name)], \
                "row " #name " has no system function: add it to kRowFunctions");
#include "isa/x86/rows.inc"
#undef ROW

}  // namespace

bool has_system_function(RowId row) { return kHasFunction[static_cast<size_t>(row)]; }

Fallible<Next> execute_system(Context& context, const Insn& insn) {
  SystemFunction function = kFunctions[static_cast<size_t>(insn.row)];
  if (function == nullptr) return undefined();
  // RF lasts for one instruction: this one. Faults of it push RF set all the same.
  context.state.rflags &= ~cpu::rflags::kRf;
  return function(context, insn);
}

}  // namespace rhea::dbt
