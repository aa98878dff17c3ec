// SPDX-License-Identifier: Apache-2.0
// FNSTENV, FLDENV, FNSAVE, FRSTOR and FNINIT in the 16- and 32-bit, real and protected forms. [SDM-1 8.1.10]
#include "dbt/system/xsave_image.h"

namespace rhea::dbt {

namespace {

constexpr uint16_t kExceptionMasks = 0x3f, kErrorSummary = 0x80;
constexpr unsigned kRegistersBytes = 80;

struct Environment {
  uint16_t control = kDefaultFcw, status = 0, tags = 0xffff, opcode = 0;
  uint64_t instruction = 0, data = 0;
};

bool wide_form(const Insn& insn) { return insn.operand_size != 2; }
unsigned stack_top(uint64_t status) { return (status >> 11) & 7; }
unsigned environment_bytes(const Insn& insn) { return wide_form(insn) ? 28 : 14; }

// Two bits per physical register: valid, zero, special, empty. [SDM-1 8.1.7]
unsigned register_tag(const std::byte* value) {
  uint64_t significand = load_host(value, 8);
  uint64_t exponent = load_host(value + 8, 2) & 0x7fff;
  if (exponent == 0 && significand == 0) return 1;
  if (exponent == 0 || exponent == 0x7fff || !(significand >> 63)) return 2;
  return 0;
}

uint16_t full_tags(Context& context) {
  unsigned abridged = static_cast<unsigned>(image_field(context, kFtw, 1));
  unsigned top = stack_top(image_field(context, kFsw, 2));
  unsigned tags = 0;
  for (unsigned physical = 0; physical < 8; ++physical) {
    unsigned tag = 3;
    if ((abridged >> physical) & 1) tag = register_tag(image(context) + kSt0 + 16 * ((physical - top) & 7));
    tags |= tag << (2 * physical);
  }
  return static_cast<uint16_t>(tags);
}

uint8_t abridged_tags(uint16_t tags) {
  unsigned abridged = 0;
  for (unsigned physical = 0; physical < 8; ++physical)
    if (((tags >> (2 * physical)) & 3) != 3) abridged |= 1u << physical;
  return static_cast<uint8_t>(abridged);
}

Environment live_environment(Context& context) {
  return {.control = static_cast<uint16_t>(image_field(context, kFcw, 2)),
          .status = static_cast<uint16_t>(image_field(context, kFsw, 2)),
          .tags = full_tags(context),
          .opcode = static_cast<uint16_t>(context.fpu_fop & 0x7ff),
          .instruction = context.fpu_fip,
          .data = context.fpu_fdp};
}

// The image lists registers from the top of stack: a new TOP turns the list, the registers stay.
void move_top(Context& context, unsigned new_top) {
  unsigned turn = (new_top - stack_top(image_field(context, kFsw, 2))) & 7;
  if (turn == 0) return;
  std::byte registers[128];
  copy_bytes(registers, image(context) + kSt0, 128);
  for (unsigned i = 0; i < 8; ++i) copy_bytes(image(context) + kSt0 + 16 * i, registers + 16 * ((i + turn) & 7), 16);
}

void set_environment(Context& context, const Environment& environment) {
  move_top(context, stack_top(environment.status));
  set_image_field(context, kFcw, 2, environment.control);
  // ES and B say whether an unmasked exception is pending.
  uint16_t status = environment.status & static_cast<uint16_t>(~0x8080);
  if (status & ~environment.control & kExceptionMasks) status |= 0x8080;
  set_image_field(context, kFsw, 2, status);
  set_image_field(context, kFtw, 2, abridged_tags(environment.tags));
  context.fpu_fop = environment.opcode & 0x7ff;
  context.fpu_fip = environment.instruction;
  context.fpu_fdp = environment.data;
  mark_in_use(context, kX87Component);
}

// Fills the 14 or 28 bytes; unused upper halves of the 32-bit form hold ones.
void encode(const Context& context, const Insn& insn, const Environment& environment, std::byte* out) {
  bool real = real_or_v86(context), wide = wide_form(insn);
  unsigned step = wide ? 4 : 2;
  uint64_t fill = wide ? 0xffff0000 : 0;
  store_host(out, environment.control | fill, step);
  store_host(out + step, environment.status | fill, step);
  store_host(out + 2 * step, environment.tags | fill, step);
  uint64_t ip = environment.instruction, dp = environment.data;
  if (!real) {
    store_host(out + 3 * step, ip, step);
    store_host(out + 4 * step, wide ? uint64_t{environment.opcode} << 16 : 0, step);
    store_host(out + 5 * step, dp, step);
    store_host(out + 6 * step, fill, step);
  } else if (wide) {
    store_host(out + 12, (ip & 0xffff) | fill, 4);
    store_host(out + 16, ((ip >> 4) & 0x0ffff000) | environment.opcode, 4);
    store_host(out + 20, (dp & 0xffff) | fill, 4);
    store_host(out + 24, (dp >> 4) & 0x0ffff000, 4);
  } else {
    store_host(out + 6, ip, 2);
    store_host(out + 8, ((ip >> 4) & 0xf000) | environment.opcode, 2);
    store_host(out + 10, dp, 2);
    store_host(out + 12, (dp >> 4) & 0xf000, 2);
  }
}

Environment decode(const Context& context, const Insn& insn, const std::byte* in) {
  bool real = real_or_v86(context), wide = wide_form(insn);
  unsigned step = wide ? 4 : 2;
  auto field = [&](unsigned index) { return load_host(in + index * step, step); };
  Environment environment{.control = static_cast<uint16_t>(field(0)),
                          .status = static_cast<uint16_t>(field(1)),
                          .tags = static_cast<uint16_t>(field(2))};
  if (!real) {
    environment.instruction = field(3);
    environment.opcode = static_cast<uint16_t>(wide ? field(4) >> 16 : 0);
    environment.data = field(5);
  } else {
    uint64_t high_mask = wide ? 0x0ffff000 : 0xf000;
    environment.instruction = (field(3) & 0xffff) | ((field(4) & high_mask) << 4);
    environment.opcode = static_cast<uint16_t>(field(4) & 0x7ff);
    environment.data = (field(5) & 0xffff) | ((field(6) & high_mask) << 4);
  }
  return environment;
}

void reset_x87(Context& context) { set_environment(context, Environment{}); }

// #AC by the size of the form's fields.
Fallible<uint64_t> area_address(Context& context, const Insn& insn, unsigned size_bytes, Access access) {
  const unsigned field = wide_form(insn) ? 4 : 2;
  uint64_t linear = GUEST_TRY(operand_address(context, insn, field, access));
  GUEST_TRY(check_alignment(context, linear, field));
  return operand_address(context, insn, size_bytes, access);
}

// FLDENV and FRSTOR wait: an unmasked exception of an earlier instruction comes first.
Fallible<void> check_pending_exception(Context& context) {
  if ((image_field(context, kFsw, 2) & kErrorSummary) && (context.state.cr0 & cpu::cr0::kNe)) return raise(kX87Error);
  return {};
}

}  // namespace

namespace op {

RHEA_SYSTEM_FUNCTION(fnstenv) {
  GUEST_TRY(require_x87(context));
  unsigned size = environment_bytes(insn);
  uint64_t linear = GUEST_TRY(area_address(context, insn, size, Access::kWrite));
  save_vectors(context);
  std::byte bytes[28];
  Environment environment = live_environment(context);
  encode(context, insn, environment, bytes);
  GUEST_TRY(write_linear_bytes(context, linear, bytes, size, current_mmu(context)));
  environment.control |= kExceptionMasks;
  set_environment(context, environment);
  load_vectors(context);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(fldenv) {
  GUEST_TRY(require_x87(context));
  save_vectors(context);
  GUEST_TRY(check_pending_exception(context));
  unsigned size = environment_bytes(insn);
  uint64_t linear = GUEST_TRY(area_address(context, insn, size, Access::kRead));
  std::byte bytes[28];
  GUEST_TRY(read_linear_bytes(context, linear, bytes, size, current_mmu(context)));
  set_environment(context, decode(context, insn, bytes));
  load_vectors(context);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(fnsave) {
  GUEST_TRY(require_x87(context));
  unsigned header = environment_bytes(insn), size = header + kRegistersBytes;
  uint64_t linear = GUEST_TRY(area_address(context, insn, size, Access::kWrite));
  save_vectors(context);
  std::byte bytes[28 + kRegistersBytes];
  encode(context, insn, live_environment(context), bytes);
  for (unsigned i = 0; i < 8; ++i) copy_bytes(bytes + header + 10 * i, image(context) + kSt0 + 16 * i, 10);
  GUEST_TRY(write_linear_bytes(context, linear, bytes, size, current_mmu(context)));
  reset_x87(context);
  load_vectors(context);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(frstor) {
  GUEST_TRY(require_x87(context));
  save_vectors(context);
  GUEST_TRY(check_pending_exception(context));
  unsigned header = environment_bytes(insn), size = header + kRegistersBytes;
  uint64_t linear = GUEST_TRY(area_address(context, insn, size, Access::kRead));
  std::byte bytes[28 + kRegistersBytes];
  GUEST_TRY(read_linear_bytes(context, linear, bytes, size, current_mmu(context)));
  set_environment(context, decode(context, insn, bytes));
  for (unsigned i = 0; i < 8; ++i) copy_bytes(image(context) + kSt0 + 16 * i, bytes + header + 10 * i, 10);
  load_vectors(context);
  return finish(context, insn);
}

RHEA_SYSTEM_FUNCTION(fninit) {
  GUEST_TRY(require_x87(context));
  save_vectors(context);
  reset_x87(context);
  load_vectors(context);
  return finish(context, insn);
}

}  // namespace op

}  // namespace rhea::dbt
