// SPDX-License-Identifier: Apache-2.0
// MOVS, STOS, LODS, CMPS and SCAS with and without REP. [SDM-2B REP]
//
// Runs of elements that lie within one page on each side go straight to host memory; an element that crosses
// pages or meets a device is done by itself. Registers are committed after each run, so that a fault or an
// interrupt leaves them at the element where work goes on. Moves use the host's own REP MOVS with the guest's
// element size: propagation patterns come out the same, and other processors see whole elements.
#include "dbt/inject_bug.h"
#include "dbt/system/internal.h"
#include "dbt/system/repeat.h"

namespace rhea::dbt {

namespace {

struct Job {
  Context& context;
  const Insn& insn;
  unsigned size;  // of an element
  unsigned address_size;
  bool backward;
  MmuIndex mmu;

  Job(Context& c, const Insn& i)
      : context(c),
        insn(i),
        size(i.operand_size),
        address_size(i.mem.address_size),
        backward(c.direction_flag && !(injected(c, 72) && i.operand_size == 2)),
        mmu(current_mmu(c)) {}

  uint64_t count() const { return repeats(insn) ? read_register(context, cpu::kRcx, address_size) : 1; }
  void finish_elements(uint64_t elements, bool source, bool destination) const {
    if (source) advance_register(context, cpu::kRsi, address_size, elements * size);
    if (destination) advance_register(context, cpu::kRdi, address_size, elements * size);
    if (repeats(insn))
      write_register(context, cpu::kRcx, address_size, read_register(context, cpu::kRcx, address_size) - elements);
  }
};

// Where elements start on one side; `host` is null where only a single element can be done, by linear address.
struct Run {
  uint64_t linear = 0;        // of the current element
  std::byte* host = nullptr;  // of the current element
  uint64_t physical = 0;
  uint64_t elements = 1;
  bool note = false;  // the store must be announced
};

// Elements from the current one to the end of its page in the direction of work; 0 if it crosses the page.
uint64_t elements_in_page(const Job& job, uint64_t linear) {
  uint64_t in_page = linear & (memory::kPageSize - 1);
  if (in_page + job.size > memory::kPageSize) return 0;
  return job.backward ? in_page / job.size + 1 : (memory::kPageSize - in_page) / job.size;
}

// Elements before the offset wraps around.
uint64_t elements_to_wrap(const Job& job, uint64_t offset) {
  if (job.backward) return offset / job.size + 1;
  uint64_t room = size_mask(job.address_size) - offset;
  return room < job.size ? 1 : room / job.size;
}

Fallible<Run> find_run(const Job& job, unsigned segment, unsigned reg, Access access, uint64_t wanted) {
  Context& context = job.context;
  uint64_t offset = read_register(context, reg, job.address_size);
  Run run;
  run.linear = GUEST_TRY(linear_address(context, segment, offset, job.size, access));
  GUEST_TRY(check_alignment(context, run.linear, job.size));
  uint64_t elements = elements_in_page(job, run.linear);
  if (elements == 0) {  // faults come in the order of the accesses: this side's now, whatever the other's
    GUEST_TRY(translate(context, run.linear, access, job.mmu));
    GUEST_TRY(translate(context, wrap_linear(context, (run.linear | 0xfff) + 1), access, job.mmu));
    return run;
  }
  if (data_page_watched(context, run.linear, access == Access::kWrite)) [[unlikely]] {  // by linear address, one by one
    GUEST_TRY(translate(context, run.linear, access, job.mmu));
    return run;
  }
  if (uint64_t limit = elements_to_wrap(job, offset); elements > limit) elements = limit;
  if (elements > wanted) elements = wanted;
  uint64_t back = job.backward ? (elements - 1) * job.size : 0;
  uint64_t bytes = elements * job.size;
  // The segment's limit may end inside the page.
  if (!context.state.code64() &&
      !within_limit(context.state.segment[segment], offset - back, static_cast<unsigned>(bytes))) {
    elements = 1;
    back = 0;
    bytes = job.size;
  }
  auto* host =
      static_cast<std::byte*>(tlb_lookup(context, run.linear - back, static_cast<unsigned>(bytes), access, job.mmu));
  if (host == nullptr) {
    Translation target = GUEST_TRY(translate(context, run.linear, access, job.mmu));
    run.physical = target.physical - back;
    host = ram_pointer(context, run.physical, bytes);
    run.note = true;
  }
  if (host == nullptr) return run;
  run.host = host + back;
  run.elements = elements;
  return run;
}

void announce(const Job& job, const Run& run, uint64_t elements) {
  if (!run.note) return;
  uint64_t bytes = elements * job.size;
  // find_run gave the address of the lowest element of its own, perhaps longer, run.
  uint64_t low = job.backward ? run.physical + (run.elements - elements) * job.size : run.physical;
  note_store(job.context, low, static_cast<unsigned>(bytes));
}

// ---- the host's own string instructions ----

#define RHEA_HOST_MOVS(suffix) asm volatile("rep movs" suffix : "+D"(to), "+S"(from), "+c"(count) : : "memory")
#define RHEA_HOST_MOVS_BACKWARD(suffix) \
  asm volatile("std\n\trep movs" suffix "\n\tcld" : "+D"(to), "+S"(from), "+c"(count) : : "memory", "cc")

void host_move(std::byte* to, const std::byte* from, uint64_t count, unsigned size, bool backward) {
  if (backward) {
    switch (size) {
      case 1: RHEA_HOST_MOVS_BACKWARD("b"); return;
      case 2: RHEA_HOST_MOVS_BACKWARD("w"); return;
      case 4: RHEA_HOST_MOVS_BACKWARD("l"); return;
      default: RHEA_HOST_MOVS_BACKWARD("q"); return;
    }
  }
  switch (size) {
    case 1: RHEA_HOST_MOVS("b"); return;
    case 2: RHEA_HOST_MOVS("w"); return;
    case 4: RHEA_HOST_MOVS("l"); return;
    default: RHEA_HOST_MOVS("q"); return;
  }
}

void host_store(std::byte* to, uint64_t value, uint64_t count, unsigned size) {
  switch (size) {
    case 1: asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory"); return;
    case 2: asm volatile("rep stosw" : "+D"(to), "+c"(count) : "a"(value) : "memory"); return;
    case 4: asm volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(value) : "memory"); return;
    default: asm volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory"); return;
  }
}

// ---- one run of each instruction: returns the elements done ----

Fallible<uint64_t> move_run(const Job& job, uint64_t wanted) {
  Run source = GUEST_TRY(find_run(job, job.insn.mem.segment, cpu::kRsi, Access::kRead, wanted));
  Run target = GUEST_TRY(find_run(job, cpu::kEs, cpu::kRdi, Access::kWrite, wanted));
  uint64_t elements = 1;
  if (source.host == nullptr || target.host == nullptr) {
    uint64_t value = GUEST_TRY(read_linear(job.context, source.linear, job.size, job.mmu));
    GUEST_TRY(write_linear(job.context, target.linear, value, job.size, job.mmu));
  } else {
    elements = source.elements < target.elements ? source.elements : target.elements;
    host_move(target.host, source.host, elements, job.size, job.backward);
    announce(job, target, elements);
  }
  job.finish_elements(elements, true, true);
  return elements;
}

Fallible<uint64_t> store_run(const Job& job, uint64_t wanted) {
  Run target = GUEST_TRY(find_run(job, cpu::kEs, cpu::kRdi, Access::kWrite, wanted));
  uint64_t value = read_register(job.context, cpu::kRax, job.size);
  if (target.host == nullptr) {
    GUEST_TRY(write_linear(job.context, target.linear, value, job.size, job.mmu));
  } else {
    uint64_t back = job.backward ? (target.elements - 1) * job.size : 0;
    host_store(target.host - back, value, target.elements, job.size);
    announce(job, target, target.elements);
  }
  job.finish_elements(target.elements, false, true);
  return target.elements;
}

Fallible<uint64_t> load_run(const Job& job, uint64_t wanted) {
  Run source = GUEST_TRY(find_run(job, injected(job.context, 73) ? unsigned{cpu::kDs} : job.insn.mem.segment, cpu::kRsi,
                                  Access::kRead, wanted));
  uint64_t value;
  if (source.host == nullptr) {
    value = GUEST_TRY(read_linear(job.context, source.linear, job.size, job.mmu));
  } else {
    uint64_t last = (source.elements - 1) * job.size;
    value = load_host(job.backward ? source.host - last : source.host + last, job.size);
  }
  write_register(job.context, cpu::kRax, job.size, value);
  job.finish_elements(source.elements, true, false);
  return source.elements;
}

struct Comparison {
  uint64_t elements = 0;
  uint64_t left = 0, right = 0;  // the last pair
};

// Compares until the condition of REPE or REPNE ends it. A null `left_host` compares with `left` each time.
template <unsigned Size>
Comparison compare_elements(const std::byte* left_host, uint64_t left, const std::byte* right_host, uint64_t count,
                            int64_t step, bool while_equal) {
  Comparison result{.left = left};
  while (result.elements < count) {
    if (left_host != nullptr) {
      result.left = load_host(left_host, Size);
      left_host += step;
    }
    result.right = load_host(right_host, Size);
    right_host += step;
    ++result.elements;
    if ((result.left == result.right) != while_equal) break;
  }
  return result;
}

Comparison compare_run(const Job& job, const std::byte* left_host, uint64_t left, const std::byte* right_host,
                       uint64_t count) {
  int64_t step = job.backward ? -static_cast<int64_t>(job.size) : job.size;
  bool while_equal = !job.insn.repne;
  switch (job.size) {
    case 1: return compare_elements<1>(left_host, left, right_host, count, step, while_equal);
    case 2: return compare_elements<2>(left_host, left, right_host, count, step, while_equal);
    case 4: return compare_elements<4>(left_host, left, right_host, count, step, while_equal);
    default: return compare_elements<8>(left_host, left, right_host, count, step, while_equal);
  }
}

// Commits a comparison; true if the instruction is over.
bool commit_comparison(const Job& job, const Comparison& result, bool source) {
  set_arithmetic_flags(job.context, subtraction_flags(result.left, result.right, job.size));
  job.finish_elements(result.elements, source, true);
  return (result.left == result.right) == job.insn.repne;
}

Fallible<bool> compare_strings(const Job& job, uint64_t wanted) {
  // The processor reads ES:rDI first.
  Run target = GUEST_TRY(find_run(job, cpu::kEs, cpu::kRdi, Access::kRead, wanted));
  Run source = GUEST_TRY(find_run(job, job.insn.mem.segment, cpu::kRsi, Access::kRead, wanted));
  Comparison result;
  if (source.host == nullptr || target.host == nullptr) {
    result.elements = 1;
    result.left = GUEST_TRY(read_linear(job.context, source.linear, job.size, job.mmu));
    result.right = GUEST_TRY(read_linear(job.context, target.linear, job.size, job.mmu));
  } else {
    uint64_t elements = source.elements < target.elements ? source.elements : target.elements;
    result = compare_run(job, source.host, 0, target.host, elements);
  }
  return commit_comparison(job, result, true);
}

Fallible<bool> scan_string(const Job& job, uint64_t wanted) {
  Run target = GUEST_TRY(find_run(job, cpu::kEs, cpu::kRdi, Access::kRead, wanted));
  Comparison result{.elements = 1, .left = read_register(job.context, cpu::kRax, job.size)};
  if (target.host == nullptr) {
    result.right = GUEST_TRY(read_linear(job.context, target.linear, job.size, job.mmu));
  } else {
    result = compare_run(job, nullptr, result.left, target.host, target.elements);
  }
  return commit_comparison(job, result, false);
}

// REP with 32-bit addresses: Intel's processors zero-extend ECX (and the pointers of MOVS and STOS) before they
// look at the count or can fault.
void extend_registers(const Job& job, bool source, bool destination) {
  if (!repeats(job.insn) || job.address_size != 4 || !job.context.state.code64() || !job.context.cpu_model->intel())
    return;
  write_register(job.context, cpu::kRcx, 4, job.context.state.gpr[cpu::kRcx]);
  if (source) write_register(job.context, cpu::kRsi, 4, job.context.state.gpr[cpu::kRsi]);
  if (destination) write_register(job.context, cpu::kRdi, 4, job.context.state.gpr[cpu::kRdi]);
}

template <class RunFunction>
Fallible<Next> transfer(const Job& job, RunFunction run, bool source, bool destination) {
  extend_registers(job, source, destination);
  const uint64_t first = job.count();
  uint64_t count = first;
  while (count != 0) {
    uint64_t limit = job.context.state.rflags & cpu::rflags::kTf ? 1 : count;
    const auto done = run(job, limit);
    if (injected(job.context, 71) && !done) write_register(job.context, cpu::kRcx, job.address_size, first);
    count -= GUEST_TRY(done);
    if (count != 0 && must_leave_repeat(job.context)) return leave_repeat(job.context);
  }
  return finish(job.context, job.insn);
}

template <class RunFunction>
Fallible<Next> compare(const Job& job, RunFunction run) {
  extend_registers(job, false, false);
  const uint32_t flags_before = job.context.arith_flags;
  while (uint64_t count = job.count()) {
    uint64_t limit = job.context.state.rflags & cpu::rflags::kTf ? 1 : count;
    Fallible<bool> over = run(job, limit);
    if (!over) {
      // Registers stay at the element that faulted, flags go back to those before the instruction, as they do for
      // an event between iterations. [SDM-2B REP]
      job.context.arith_flags = flags_before;
      return std::unexpected(over.error());
    }
    if (*over || !repeats(job.insn)) break;
    if (job.count() != 0 && must_leave_repeat(job.context)) {
      job.context.arith_flags = flags_before;
      return leave_repeat(job.context);
    }
  }
  return finish(job.context, job.insn);
}

}  // namespace

namespace op {

RHEA_SYSTEM_FUNCTION(movs) { return transfer(Job(context, insn), move_run, true, true); }
RHEA_SYSTEM_FUNCTION(stos) { return transfer(Job(context, insn), store_run, false, true); }
RHEA_SYSTEM_FUNCTION(lods) { return transfer(Job(context, insn), load_run, false, false); }
RHEA_SYSTEM_FUNCTION(cmps) { return compare(Job(context, insn), compare_strings); }
RHEA_SYSTEM_FUNCTION(scas) { return compare(Job(context, insn), scan_string); }

}  // namespace op

}  // namespace rhea::dbt
