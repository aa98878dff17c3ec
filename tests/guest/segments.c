// SPDX-License-Identifier: Apache-2.0
// Segmentation in full, against a model of the tables: limits of data segments in both directions, loads of segment
// registers, LAR, LSL, VERR, VERW and ARPL, far jumps and calls to every kind of descriptor, call gates with
// parameters, ENTER, BOUND, XLAT, and EIP beyond 4 GiB. [SDM-3A 3.4.5.1, 5.3 to 5.8; SDM-2A, SDM-2B]
#include "guest.h"

void guest_main(void);

enum { kEntries = 256, kLdt = kFreeSelector, kGp = 13, kNp = 11, kSs = 12, kBound = 5 };
static uint64_t ldt[kEntries] __attribute__((aligned(8)));
static uint8_t area[0x4000] __attribute__((aligned(4096)));
static uint8_t user_area[0x2000], gate_user_stack[512] __attribute__((aligned(4096)));

static uint64_t descriptor(uint32_t base, uint32_t limit_field, unsigned access, unsigned flags) {
  return (limit_field & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
         (uint64_t)(limit_field >> 16 & 0xf) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}
static uint16_t ldt_selector(unsigned index, unsigned rpl) { return (uint16_t)(index << 3 | 4 | rpl); }

// One assertion over many cases: the first few that differ are printed.
static unsigned cases, differences;
static void begin(void) { cases = differences = 0; }
static void expect(bool as_modelled, uint32_t what, uint32_t got, uint32_t want) {
  ++cases;
  if (as_modelled || ++differences > 4) return;
  print("  case ");
  print_hex(what);
  print(": got ");
  print_hex(got);
  print(", want ");
  print_hex(want);
  print("\n");
}
static void end(const char* name) { check(name, cases > 0 && differences == 0); }

static int run(const void* code, uint16_t ss, word eax, word ecx, word edx) {
  const struct user_entry entry = {
      .ip = (word)code, .ss = ss, .sp = (word)user_stack_top, .arguments = {eax, ecx, edx}};
  trap.error = 0;
  return run_user(&entry);
}
// A vector with the error code or, for a run that ended by itself, no vector.
static uint32_t outcome(int vector) {
  return vector == kUserReturnVector ? 0 : (uint32_t)vector << 16 | (uint32_t)trap.error;
}

// ---- limits of data segments ----
#define PROBE(name, instruction) \
  extern char name[];            \
  __asm__(".globl " #name "\n" #name ": " instruction "\n int $0xf0\n")
PROBE(load_1, "mov %gs:(%eax), %cl");
PROBE(load_2, "mov %gs:(%eax), %cx");
PROBE(load_4, "mov %gs:(%eax), %ecx");
PROBE(load_8, "fninit\n fildll %gs:(%eax)\n fstp %st");
PROBE(load_10, "fninit\n fldt %gs:(%eax)\n fstp %st");
PROBE(store_1, "mov %cl, %gs:(%eax)");
PROBE(store_4, "mov %ecx, %gs:(%eax)");
PROBE(stack_1, "mov %ss:(%eax), %cl");
PROBE(stack_4, "mov %ss:(%eax), %ecx");

static bool inside(unsigned access, unsigned flags, uint32_t limit, uint32_t offset, unsigned size) {
  const uint64_t last = (uint64_t)offset + size - 1;
  if (!(access & 4)) return limit == 0xffffffff || last <= limit;
  return offset > limit && last <= (flags & 4 ? 0xffffffff : 0xffff);
}

static void test_limits(unsigned access, unsigned flags, const char* name, const char* stack_name) {
  static const struct {
    const void* code;
    unsigned size;
    bool stack;
  } probes[] = {{load_1, 1, false},   {load_2, 2, false},  {load_4, 4, false},  {load_8, 8, false}, {load_10, 10, false},
                {store_1, 1, false}, {store_4, 4, false}, {stack_1, 1, true}, {stack_4, 4, true}};
  static const uint32_t fields[] = {0, 1, 0xf, 0xfff, 0x1000, 0xfffe, 0xffff, 0xffffe, 0xfffff};
  for (int stack = 0; stack < 2; ++stack) {
    begin();
    for (unsigned f = 0; f < ARRAY_SIZE(fields); ++f) {
      const uint32_t limit = flags & 8 ? fields[f] << 12 | 0xfff : fields[f];
      ldt[1] = descriptor((uint32_t)area, fields[f], access, flags);
      const uint16_t selector = ldt_selector(1, 3);
      if (!stack) __asm__ volatile("mov %0, %%gs" ::"r"(selector) : "memory");
      for (unsigned p = 0; p < ARRAY_SIZE(probes); ++p) {
        if (probes[p].stack != stack) continue;
        const unsigned size = probes[p].size;
        const uint32_t offsets[] = {limit - size, limit - size + 1, limit - size + 2, limit,           limit + 1,
                                    0,            0xffff,           0x10000 - size,   0x10000 - size + 1, 0x10000,
                                    0u - size,    1u - size,        0xffffffff};
        for (unsigned o = 0; o < ARRAY_SIZE(offsets); ++o) {
          const uint32_t at = (uint32_t)area + offsets[o];  // linear: the guest must survive what is stored there
          const bool writes = probes[p].code == store_1 || probes[p].code == store_4;
          if (writes && at - (uint32_t)area > sizeof area - 16) continue;
          const uint32_t want = inside(access, flags, limit, offsets[o], size) ? 0 : (stack ? kSs : kGp) << 16;
          const uint32_t got = outcome(run(probes[p].code, stack ? selector : 0, offsets[o], 0, 0));
          expect(got == want, offsets[o], got, want);
        }
      }
    }
    __asm__ volatile("mov %0, %%gs" ::"r"(0) : "memory");
    end(stack ? stack_name : name);
  }
}

// ---- what LAR, LSL, VERR and VERW say, and what loads take ----
static bool is_code(unsigned access) { return (access & 0x18) == 0x18; }
static bool is_conforming(unsigned access) { return (access & 0x1c) == 0x1c; }
static bool is_readable(unsigned access) { return (access & 0x10) && (!is_code(access) || (access & 2)); }
static bool is_writable(unsigned access) { return (access & 0x1a) == 0x12; }
static unsigned dpl_of(unsigned access) { return access >> 5 & 3; }

struct answers {
  uint32_t lar, lsl;
  uint8_t flags;  // 1: LAR, 2: LSL, 4: VERR, 8: VERW said yes
};
static struct answers answers[kEntries];
static volatile unsigned asked_rpl;
void ask_all(void);
void ask_all(void) {
  for (unsigned i = 0; i < kEntries; ++i) {
    const uint32_t selector = ldt_selector(i, asked_rpl);
    uint8_t lar_ok, lsl_ok, verr_ok, verw_ok;
    struct answers a = {.lar = 0xabcdef01, .lsl = 0xabcdef02};
    __asm__("lar %2, %0; setz %1" : "+r"(a.lar), "=q"(lar_ok) : "r"(selector) : "cc");
    __asm__("lsl %2, %0; setz %1" : "+r"(a.lsl), "=q"(lsl_ok) : "r"(selector) : "cc");
    __asm__("verr %w1; setz %0" : "=q"(verr_ok) : "r"(selector) : "cc");
    __asm__("verw %w1; setz %0" : "=q"(verw_ok) : "r"(selector) : "cc");
    a.flags = (uint8_t)(lar_ok | lsl_ok << 1 | verr_ok << 2 | verw_ok << 3);
    answers[i] = a;
  }
}
extern char ask_all_user[];
__asm__("ask_all_user: call ask_all\n int $0xf0\n");

// [SDM-2A LAR table 3-50, LSL table 3-54]
static bool has_rights(unsigned access) { return (access & 0x10) || (0x1a3e & 1u << (access & 15)); }
static bool has_limit(unsigned access) { return (access & 0x10) || (0x0a0e & 1u << (access & 15)); }

static void fill_ldt(void) {
  for (unsigned i = 0; i < kEntries; ++i) ldt[i] = descriptor(0x123000, 0x54321, i, i & 1 ? 0xc : 0x4);
}

static void test_questions(unsigned cpl, const char* lar, const char* lsl, const char* verr, const char* verw) {
  const char* const names[] = {lar, lsl, verr, verw};
  for (unsigned kind = 0; kind < 4; ++kind) {
    begin();
    for (unsigned rpl = 0; rpl < 4; ++rpl) {
      asked_rpl = rpl;
      fill_ldt();
      if (cpl == 3)
        run(ask_all_user, 0, 0, 0, 0);
      else
        ask_all();
      for (unsigned i = 0; i < kEntries; ++i) {
        const bool visible = is_conforming(i) || (dpl_of(i) >= cpl && dpl_of(i) >= rpl);
        const bool yes = visible && (kind == 0   ? has_rights(i)
                                     : kind == 1 ? has_limit(i)
                                     : kind == 2 ? is_readable(i)
                                                 : is_writable(i));
        const struct answers a = answers[i];
        expect((a.flags >> kind & 1) == yes, i | rpl << 8, a.flags, yes);
        if (kind == 0) {
          const uint32_t want = yes ? (uint32_t)(ldt[i] >> 32) & 0xf0ff00 : 0xabcdef01;
          expect((yes ? a.lar & 0xf0ff00 : a.lar) == want, i | rpl << 8, a.lar, want);
        }
        if (kind == 1) {
          const uint32_t want = !yes ? 0xabcdef02 : i & 1 ? 0x54321fff : 0x54321;
          expect(a.lsl == want, i | rpl << 8, a.lsl, want);
        }
      }
    }
    end(names[kind]);
  }
}

PROBE(load_gs, "mov %ax, %gs");
PROBE(load_ss, "mov %ax, %ss");

static void test_loads(void) {
  for (int stack = 0; stack < 2; ++stack) {
    begin();
    for (unsigned rpl = 0; rpl < 4; ++rpl)
      for (unsigned i = 0; i < kEntries; ++i) {
        fill_ldt();
        const uint16_t selector = ldt_selector(i, rpl);
        const uint32_t error = selector & 0xfffc;
        uint32_t want = 0;
        if (stack) {
          if (rpl != 3 || !is_writable(i) || dpl_of(i) != 3)
            want = kGp << 16 | error;
          else if (!(i & 0x80))
            want = kSs << 16 | error;
        } else {
          if (!is_readable(i) || (!is_conforming(i) && dpl_of(i) < 3))
            want = kGp << 16 | error;
          else if (!(i & 0x80))
            want = kNp << 16 | error;
        }
        const uint32_t got = outcome(run(stack ? load_ss : load_gs, 0, selector, 0, 0));
        expect(got == want, i | rpl << 8, got, want);
        const bool accessed = ldt[i] >> 40 & 1;
        expect(accessed == (want == 0 || (i & 1)), i | rpl << 8, accessed, want == 0);
        __asm__ volatile("mov %0, %%gs" ::"r"(0) : "memory");
      }
    end(stack ? "load-ss-every-descriptor" : "load-gs-every-descriptor");
  }
}

// ---- far transfers ----
struct {
  uint32_t offset;
  uint16_t selector;
} __attribute__((packed)) far_pointer;
PROBE(far_jump, "ljmp *far_pointer");
PROBE(far_call, "lcall *far_pointer");
PROBE(arrived, "nop");

static void test_transfers(bool call, const char* name) {
  begin();
  for (unsigned rpl = 0; rpl < 4; ++rpl)
    for (unsigned i = 0; i < kEntries; ++i) {
      const unsigned type = i & 0x1f;
      if (type == 1 || type == 3 || type == 4 || type == 5 || type == 9 || type == 11 || type == 12)
        continue;  // tasks have a guest of their own, gates come below
      fill_ldt();
      ldt[i] = descriptor(0, 0xfffff, i, 0xc);
      far_pointer.offset = (uint32_t)arrived;
      far_pointer.selector = ldt_selector(i, rpl);
      const uint32_t error = far_pointer.selector & 0xfffc;
      uint32_t want = 0;
      if (!is_code(i) || (!is_conforming(i) && dpl_of(i) != 3))
        want = kGp << 16 | error;
      else if (!(i & 0x80))
        want = kNp << 16 | error;
      const uint32_t got = outcome(run(call ? far_call : far_jump, 0, 0, 0, 0));
      expect(got == want, i | rpl << 8, got, want);
      if (!want) expect(trap.cs == (error | 3), i | rpl << 8, trap.cs, error | 3);
    }
  end(name);
}

// ---- call gates ----
enum { kMaxParameters = 31, kCaptured = 40 };
uint32_t captured[kCaptured];
uint32_t gate_esp, gate_cs, gate_ss;
extern char gate_entry[], gate_return[];
__asm__(
    "gate_entry:\n"
    "  mov %esp, gate_esp\n mov %cs, gate_cs\n mov %ss, gate_ss\n"
    "  mov %esp, %esi\n mov $captured, %edi\n mov $40, %ecx\n cld\n rep movsl\n"
    "gate_return: .byte 0x90, 0xca\n .word 0\n");
PROBE(through_gate, "lcall *far_pointer");
PROBE(through_gate_jump, "ljmp *far_pointer");

static void test_gates(bool wide, bool inner, const char* name) {
  const unsigned width = wide ? 4 : 2, code_access = inner ? 0x9b : 0xfb;
  begin();
  for (unsigned count = 0; count <= kMaxParameters; ++count) {
    // A base of its own, so that sixteen bits of offset will do.
    ldt[2] = descriptor((uint32_t)gate_entry, 0xfffff, code_access, 0xc);
    ldt[3] = (uint64_t)ldt_selector(2, 0) << 16 | (uint64_t)count << 32 | (uint64_t)(0xe0 | (wide ? 12 : 4)) << 40;
    far_pointer.selector = ldt_selector(3, 3);
    gate_return[0] = (char)(wide ? 0x90 : 0x66);
    const unsigned popped = inner ? width * count : 0;
    gate_return[2] = (char)popped;
    gate_return[3] = 0;
    uint32_t* const stack = (uint32_t*)(gate_user_stack + 256);
    for (unsigned i = 0; i < 48; ++i) stack[i] = 0x11110000u + i * 0x10001u;
    memset(captured, 0, sizeof captured);
    // The caller's segment too: sixteen bits come back of its address.
    ldt[4] = descriptor((uint32_t)through_gate - 0x100, 0xfffff, 0xfb, 0xc);
    const struct user_entry entry = {.ip = 0x100, .cs = ldt_selector(4, 3), .sp = (word)stack};
    const int vector = run_user(&entry);
    expect(vector == kUserReturnVector, count, (uint32_t)vector, kUserReturnVector);
    expect(gate_cs == (uint32_t)(ldt_selector(2, 0) | (inner ? 0 : 3)), count, gate_cs, 0);
    expect(gate_ss == (inner ? kKernelDs : kUserDs), count, gate_ss, inner);
    const uint8_t* frame = (const uint8_t*)captured;
    uint32_t item[4 + kMaxParameters];
    for (unsigned i = 0; i < 4 + count; ++i)
      item[i] = wide ? ((const uint32_t*)frame)[i] : ((const uint16_t*)frame)[i];
    const uint32_t mask = wide ? 0xffffffff : 0xffff;
    expect(item[0] == 0x106, count, item[0], 0x106);  // behind the LCALL of six bytes
    expect(item[1] == entry.cs, count, item[1], entry.cs);
    // A 16-bit return takes sixteen bits of the stack pointer, too.
    const uint32_t sp = (uint32_t)stack + popped;
    expect(trap.sp == (inner ? sp & mask : sp), count, trap.sp, sp);
    if (inner) {
      for (unsigned i = 0; i < count; ++i) {
        const uint32_t want = wide ? stack[i] : ((uint16_t*)stack)[i];
        expect(item[2 + i] == want, count | i << 8, item[2 + i], want);
      }
      expect(item[2 + count] == ((uint32_t)stack & mask), count, item[2 + count], (uint32_t)stack);
      expect(item[3 + count] == kUserDs, count, item[3 + count], kUserDs);
    }
  }
  end(name);
}

static void test_gate_checks(void) {
  begin();
  for (unsigned rpl = 0; rpl < 4; ++rpl)
    for (unsigned gate = 0; gate < kEntries; ++gate) {
      const unsigned type = gate & 0x1f;
      if (type != 4 && type != 12) continue;
      ldt[2] = descriptor((uint32_t)gate_entry, 0xfffff, 0x9b, 0xc);
      ldt[3] = (uint64_t)ldt_selector(2, 0) << 16 | (uint64_t)gate << 40;
      far_pointer.selector = ldt_selector(3, rpl);
      gate_return[0] = (char)(type == 12 ? 0x90 : 0x66);
      gate_return[2] = 0;
      const uint32_t error = far_pointer.selector & 0xfffc;
      uint32_t want = 0;
      if (dpl_of(gate) < 3)
        want = kGp << 16 | error;
      else if (!(gate & 0x80))
        want = kNp << 16 | error;
      if (!want && type == 4) continue;  // returns by sixteen bits of the address
      const uint32_t got = outcome(run(through_gate, 0, 0, 0, 0));
      expect(got == want, gate | rpl << 8, got, want);
    }
  end("gate-every-descriptor");
}

static void test_gate_targets(bool jump, const char* name) {
  begin();
  for (unsigned code = 0; code < kEntries; ++code) {
    ldt[2] = descriptor((uint32_t)gate_entry, 0xfffff, code, 0xc);
    ldt[3] = (uint64_t)ldt_selector(2, 0) << 16 | (uint64_t)0xec << 40;
    far_pointer.selector = ldt_selector(3, 3);
    gate_return[0] = (char)0x90;
    gate_return[2] = 0;
    const uint32_t error = ldt_selector(2, 0);
    uint32_t want = 0;
    if (!is_code(code) || (jump && !is_conforming(code) && dpl_of(code) != 3))
      want = kGp << 16 | error;
    else if (!(code & 0x80))
      want = kNp << 16 | error;
    else if (!jump && !is_conforming(code) && (dpl_of(code) == 1 || dpl_of(code) == 2))
      want = 10 << 16;  // rings 1 and 2 have a null stack in the TSS
    else if (jump)
      continue;  // it would not come back
    const uint32_t got = outcome(run(jump ? through_gate_jump : through_gate, 0, 0, 0, 0));
    expect(got == want, code, got, want);
  }
  end(name);
}

// ---- ENTER ----
extern char enter_code[];
__asm__("enter_code: .byte 0x90, 0xc8, 0, 0, 0\n int $0xf0\n");
// As run_user: the first instructions in ring 3 load EBP and the whole of ESP, of which IRET loads half for such a stack.
extern char enter_with_ebp[];
__asm__("enter_with_ebp: mov %eax, %ebp\n mov %ecx, %esp\n jmp enter_code\n");
static int run_with_ebp(const struct user_entry* entry, word ebp) {
  struct user_entry copy = *entry;
  copy.ip = (word)enter_with_ebp;
  copy.arguments[0] = ebp;
  copy.arguments[1] = copy.sp;
  return run_user(&copy);
}

static void test_enter(bool wide, bool big, const char* name) {
  const unsigned width = wide ? 4 : 2;
  static uint8_t want_area[sizeof user_area];
  begin();
  // A stack segment of 64 KiB around the area where it is small.
  const uint32_t base = big ? 0 : (uint32_t)user_area - 0x4000;
  ldt[1] = descriptor(base, big ? 0xfffff : 0xffff, 0xf3, big ? 0xc : 0);
  for (unsigned level = 0; level < 34; ++level) {
    const unsigned allocation = level * 3;
    for (unsigned i = 0; i < sizeof user_area; ++i) user_area[i] = want_area[i] = (uint8_t)(i * 7 + level);
    const uint32_t sp = (uint32_t)user_area + 0x1000 - base, bp = (uint32_t)user_area + 0x1800 - base;
    const uint32_t high = big ? 0 : 0x55550000;  // what a 16-bit stack leaves alone
    uint32_t at = sp;
#define MODEL_PUSH(value)                                              \
  do {                                                                 \
    const uint32_t pushed = (value);                                   \
    at -= width;                                                       \
    memcpy(want_area + (at + base - (uint32_t)user_area), &pushed, width); \
  } while (0)
    MODEL_PUSH(bp | high);
    const uint32_t frame = at;
    for (unsigned i = 1; i < level % 32; ++i) {
      uint32_t pointer = 0;
      memcpy(&pointer, want_area + (bp - i * width + base - (uint32_t)user_area), width);
      MODEL_PUSH(pointer);
    }
    if (level % 32) MODEL_PUSH(frame | high);
    at -= allocation;
    enter_code[0] = (char)(wide ? 0x90 : 0x66);
    enter_code[2] = (char)allocation;
    enter_code[4] = (char)level;
    struct user_entry entry = {.ip = (word)enter_code, .ss = ldt_selector(1, 3), .sp = sp | high};
    const int vector = run_with_ebp(&entry, bp | high);
    expect(vector == kUserReturnVector, level, (uint32_t)vector, kUserReturnVector);
    expect(trap.sp == (at | high), level, trap.sp, at | high);
    // EBP: sixteen bits of it with a 16-bit operand.
    const uint32_t want_bp = wide ? frame | high : ((bp | high) & 0xffff0000) | (frame & 0xffff);
    expect(user_result.rbp == want_bp, level, user_result.rbp, want_bp);
    for (unsigned i = 0; i < sizeof user_area; ++i) {
      if (user_area[i] == want_area[i]) continue;
      expect(false, level | i << 8, user_area[i], want_area[i]);
      break;
    }
  }
  end(name);
}
// ---- BOUND, ARPL, XLAT ----
int32_t bounds[2];
int16_t bounds16[2];
PROBE(bound_32, "bound %eax, bounds");
PROBE(bound_16, "bound %ax, bounds16");
static void test_bound(void) {
  static const int32_t values[] = {0, 1, -1, 5, 0x7fff, -0x8000, 0x7fffffff, (int32_t)0x80000000, 0x10005};
  begin();
  for (unsigned i = 0; i < ARRAY_SIZE(values); ++i)
    for (unsigned l = 0; l < ARRAY_SIZE(values); ++l)
      for (unsigned h = 0; h < ARRAY_SIZE(values); ++h) {
        bounds[0] = values[l];
        bounds[1] = values[h];
        bounds16[0] = (int16_t)values[l];
        bounds16[1] = (int16_t)values[h];
        const bool in = values[i] >= values[l] && values[i] <= values[h];
        const int16_t index = (int16_t)values[i];
        const bool in16 = index >= bounds16[0] && index <= bounds16[1];
        const int got = run(bound_32, 0, (word)values[i], 0, 0);
        expect(got == (in ? kUserReturnVector : kBound), (uint32_t)values[i], (uint32_t)got, in);
        const int got16 = run(bound_16, 0, (word)values[i], 0, 0);
        expect(got16 == (in16 ? kUserReturnVector : kBound), (uint32_t)values[i], (uint32_t)got16, in16);
      }
  end("bound");
}
static void test_arpl(void) {
  begin();
  for (unsigned left = 0; left < 4; ++left)
    for (unsigned right = 0; right < 4; ++right) {
      uint32_t value = 0xabcd1230 | left;
      static uint16_t memory;
      memory = (uint16_t)(0x5670 | left);
      uint8_t zf, zf_memory;
      __asm__("arpl %w2, %w0; setz %1" : "+r"(value), "=q"(zf) : "r"(0xff00 | right) : "cc");
      __asm__("arpl %w2, %0; setz %1" : "+m"(memory), "=q"(zf_memory) : "r"(0xff00 | right) : "cc");
      const unsigned want = left < right ? right : left;
      expect(value == (0xabcd1230 | want), left | right << 8, value, want);
      expect(memory == (0x5670 | want), left | right << 8, memory, want);
      expect(zf == (left < right) && zf_memory == zf, left | right << 8, zf, left < right);
    }
  end("arpl");
}
#define XLAT(name, bytes) PROBE(name, ".byte " bytes)
XLAT(xlat_ds, "0xd7");
XLAT(xlat_es, "0x26, 0xd7");
XLAT(xlat_cs, "0x2e, 0xd7");
XLAT(xlat_ss, "0x36, 0xd7");
XLAT(xlat_fs, "0x64, 0xd7");
XLAT(xlat_gs, "0x65, 0xd7");
XLAT(xlat_fs_gs, "0x64, 0x65, 0xd7");
XLAT(xlat16_gs, "0x67, 0x65, 0xd7");
extern char xlat_start[];
__asm__("xlat_start: mov %eax, %ebx\n mov %ecx, %eax\n jmp *%edx\n");
static void test_xlat(void) {
  for (unsigned i = 0; i < sizeof area; ++i) area[i] = (uint8_t)(i >> 8);
  ldt[1] = descriptor((uint32_t)area + 0x100, 0xfffff, 0xf3, 0xc);
  ldt[2] = descriptor((uint32_t)area + 0x200, 0xfffff, 0xf3, 0xc);
  const uint32_t fs = ldt_selector(1, 3), gs = ldt_selector(2, 3);
  const struct {
    const char* name;
    const void* code;
    word ebx, eax;
    uint8_t want;
  } tests[] = {
      {"xlat-ds", xlat_ds, (word)area + 0x300, 0xffffff05, 3}, {"xlat-es", xlat_es, (word)area + 0x300, 5, 3},
      {"xlat-cs", xlat_cs, (word)area + 0x300, 0xff, 3},       {"xlat-ss", xlat_ss, (word)area + 0x400, 0, 4},
      {"xlat-fs", xlat_fs, 0x400, 1, 5},                       {"xlat-gs", xlat_gs, 0x400, 0x80, 6},
      {"xlat-last-override", xlat_fs_gs, 0x500, 0, 7},         {"xlat-16-bit-address", xlat16_gs, 0xabcd0600, 2, 8},
      {"xlat-16-bit-wrap", xlat16_gs, 0x1234fff0, 0x20, 2},
  };
  for (unsigned i = 0; i < ARRAY_SIZE(tests); ++i) {
    __asm__ volatile("mov %0, %%fs; mov %1, %%gs" ::"r"(fs), "r"(gs) : "memory");
    const int vector = run(xlat_start, 0, tests[i].ebx, tests[i].eax, (word)tests[i].code);
    check(tests[i].name, vector == kUserReturnVector && (user_result.rax & 0xff) == tests[i].want &&
                             (user_result.rax & ~0xfful) == (tests[i].eax & ~0xfful));
  }
  __asm__ volatile("mov %0, %%fs; mov %0, %%gs" ::"r"(0) : "memory");
}

// ---- EIP beyond 4 GiB, with a limit of 4 GiB ----
// The segment's base puts EIP 0 at area + 0x1000.
static void put(uint32_t eip, const char* bytes, size_t size) { memcpy(area + 0x1000 + eip, bytes, size); }
#define PUT(eip, bytes) put((uint32_t)(eip), bytes, sizeof(bytes) - 1)
static void wraps(const char* name, uint32_t eip, uint32_t eax, uint32_t end_ip) {
  const struct user_entry entry = {.ip = eip, .cs = ldt_selector(1, 3), .sp = (word)user_stack_top, .arguments = {0, 5}};
  const int vector = run_user(&entry);
  const bool passed = vector == kUserReturnVector && user_result.rax == eax && trap.ip == end_ip;
  check(name, passed);
  if (passed) return;
  print("  vector ");
  print_hex((uint32_t)vector);
  print(" ip ");
  print_hex(trap.ip);
  print(" eax ");
  print_hex(user_result.rax);
  print("\n");
}
static void test_wrap(void) {
  memset(area, 0x40, sizeof area);  // inc %eax
  ldt[1] = descriptor((uint32_t)area + 0x1000, 0xfffff, 0xfb, 0xc);
  PUT(0x10, "\xcd\xf0");
  wraps("eip-runs-over", 0xfffffff0, 0x20, 0x12);
  wraps("eip-runs-over-again", 0xfffffff8, 0x18, 0x12);
  PUT(-2, "\xb8\x44\x33\x22\x11");  // mov $0x11223344, %eax
  wraps("eip-instruction-across", 0xfffffff0, 0x11223344 + 0xd, 0x12);
  PUT(-2, "\x40\x40");
  PUT(0, "\x40\x40\x40");
  PUT(-16, "\xeb\x30");  // jmp forward
  PUT(0x22, "\x40\xcd\xf0");
  wraps("eip-jump-forward", 0xfffffff0, 1, 0x25);
  PUT(0x40, "\xeb\xb0");  // jmp back, to -14
  PUT(-14, "\x40\xcd\xf0");
  wraps("eip-jump-back", 0x40, 1, 0xfffffff5);
  PUT(-0x15, "\xe8\x10\x00\x00\x00");  // call 0, and back to -16
  PUT(0, "\x40\xc3");
  PUT(-16, "\xcd\xf0");
  wraps("eip-call-over", 0xffffffeb, 1, 0xfffffff2);
  PUT(-5, "\xe8\x50\x00\x00\x00");  // call 0x50, and back to 0
  PUT(0x50, "\x40\xc3");
  PUT(0, "\x40\xcd\xf0");
  wraps("eip-return-to-zero", 0xfffffffb, 2, 3);
  PUT(0x20, "\xe2\xde\xcd\xf0");  // loop to 0, which jumps below 4 GiB and comes from there again
  PUT(0, "\xeb\xee");
  PUT(-16, "\x40\xeb\x2d");
  wraps("eip-loop-over", 0x20, 4, 0x24);
}

void guest_main(void) {
  gdt[kLdt / 8] = descriptor((uint32_t)ldt, sizeof ldt - 1, 0x82, 0);
  __asm__ volatile("lldt %w0" ::"r"(kLdt));
  if (!tcg_lacks("data-limits")) {
    test_limits(0xf3, 0x0, "up-16-bytes", "up-16-bytes-stack");
    test_limits(0xf3, 0x4, "up-32-bytes", "up-32-bytes-stack");
    test_limits(0xf3, 0x8, "up-16-pages", "up-16-pages-stack");
    test_limits(0xf3, 0xc, "up-32-pages", "up-32-pages-stack");
    test_limits(0xf7, 0x0, "down-16-bytes", "down-16-bytes-stack");
    test_limits(0xf7, 0x4, "down-32-bytes", "down-32-bytes-stack");
    test_limits(0xf7, 0x8, "down-16-pages", "down-16-pages-stack");
    test_limits(0xf7, 0xc, "down-32-pages", "down-32-pages-stack");
  }
  test_questions(0, "lar-ring-0", "lsl-ring-0", "verr-ring-0", "verw-ring-0");
  test_questions(3, "lar-ring-3", "lsl-ring-3", "verr-ring-3", "verw-ring-3");
  test_loads();
  test_transfers(false, "far-jump-every-descriptor");
  test_transfers(true, "far-call-every-descriptor");
  test_gates(true, true, "gate-32-inner-parameters");
  test_gates(true, false, "gate-32-same-ring");
  test_gates(false, true, "gate-16-inner-parameters");
  test_gates(false, false, "gate-16-same-ring");
  test_gate_checks();
  test_gate_targets(false, "gate-call-to-every-descriptor");
  if (!tcg_lacks("gate-jump-to-every-descriptor")) test_gate_targets(true, "gate-jump-to-every-descriptor");
  test_enter(true, true, "enter-32-stack-32");
  test_enter(false, true, "enter-16-stack-32");
  test_enter(true, false, "enter-32-stack-16");
  test_enter(false, false, "enter-16-stack-16");
  test_bound();
  test_arpl();
  test_xlat();
  test_wrap();
  finish();
}
