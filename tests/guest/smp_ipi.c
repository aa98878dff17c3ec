// SPDX-License-Identifier: Apache-2.0
// Interprocessor interrupts in xAPIC and x2APIC mode: destinations, shorthands, delivery modes, what is pending, halted
// processors, and traffic at full rate. [SDM-3A 11.6, 11.12.9, 11.12.10]
#include "smp.h"

void guest_main(void);

static const char* group;  // "xapic" or "x2apic"
static bool x2;

enum { kFirst = 0x60, kLast = 0x9f };

// ---- who got it ----
static unsigned before[kMaxCpus];
static unsigned everybody(void) { return (1u << cpu_count) - 1; }
static void note(unsigned vector) {
  for (unsigned i = 0; i < cpu_count; ++i) before[i] = cpus[i].count[vector];
}
// Exactly one at each processor of the mask, nothing at the others.
static bool came_to(unsigned vector, unsigned mask) {
  for (unsigned i = 0; i < cpu_count; ++i)
    if (mask & 1u << i && !WAIT_FOR(cpus[i].count[vector] != before[i])) return false;
  delay_us(300);
  for (unsigned i = 0; i < cpu_count; ++i)
    if (cpus[i].count[vector] != before[i] + (mask >> i & 1)) return false;
  return true;
}

struct order {
  uint32_t destination, low;
};
static void send_order(void* order) { send_ipi(((struct order*)order)->destination, ((struct order*)order)->low); }
// From the processor with this index.
static bool sent_comes_to(unsigned from, uint32_t destination, uint32_t low, unsigned vector, unsigned mask) {
  struct order order = {destination, low};
  note(vector);
  if (from == 0) {
    send_order(&order);
  } else {
    run_on(from, send_order, &order);
    wait_idle(from);
  }
  return came_to(vector, mask);
}

static void test_destinations(void) {
  bool physical = true, to_self = true, all = true, others = true, broadcast = true;
  for (unsigned from = 0; from < cpu_count; ++from) {
    for (unsigned to = 0; to < cpu_count; ++to)
      physical = physical && sent_comes_to(from, cpus[to].apic_id, kIcrAssert | 0x60, 0x60, 1u << to);
    to_self = to_self && sent_comes_to(from, 0, kIcrSelf | 0x61, 0x61, 1u << from);
    all = all && sent_comes_to(from, 0, kIcrAll | 0x62, 0x62, everybody());
    others = others && sent_comes_to(from, 0, kIcrOthers | 0x63, 0x63, everybody() & ~(1u << from));
    broadcast = broadcast && sent_comes_to(from, x2 ? 0xffffffff : 0xff, 0x64, 0x64, everybody());
  }
  check_in(group, "physical", physical, true);
  check_in(group, "shorthand-self", to_self, true);
  check_in(group, "shorthand-all", all, true);
  check_in(group, "shorthand-others", others, true);
  check_in(group, "physical-broadcast", broadcast, true);
  check_in(group, "nobody-there", sent_comes_to(0, x2 ? 0x7777 : 0x77, 0x65, 0x65, 0), true);
  check_in(group, "nmi-physical", sent_comes_to(0, cpus[1].apic_id, kIcrNmi, kNmi, 2), true);
  check_in(group, "nmi-others", sent_comes_to(0, 0, kIcrNmi | kIcrOthers, kNmi, everybody() & ~1u), true);
  check_in(group, "nmi-others-from-ap", sent_comes_to(1, 0, kIcrNmi | kIcrOthers, kNmi, everybody() & ~2u), true);
  check_in(group, "nmi-broadcast", sent_comes_to(0, x2 ? 0xffffffff : 0xff, kIcrNmi, kNmi, everybody()), true);
}

// ---- logical destinations ----
static void set_logical(void* value) {
  struct order* order = value;
  apic_write(kLapicDfr, order->low);
  apic_write(kLapicLdr, order->destination << 24);
}
static void set_logical_of(unsigned index, uint32_t dfr, uint32_t id) {
  struct order order = {id, dfr};
  if (index == 0) {
    set_logical(&order);
  } else {
    run_on(index, set_logical, &order);
    wait_idle(index);
  }
}

// Each of the set must be hit by nothing but one of these.
static bool one_of(uint32_t destination, uint32_t low, unsigned vector, unsigned mask) {
  for (unsigned round = 0; round < 20; ++round) {
    note(vector);
    send_ipi(destination, low);
    unsigned sum = 0;
    WAIT_FOR(({
      sum = 0;
      for (unsigned i = 0; i < cpu_count; ++i) sum += cpus[i].count[vector] - before[i];
      sum;
    }));
    delay_us(100);
    sum = 0;
    for (unsigned i = 0; i < cpu_count; ++i) {
      const unsigned got = cpus[i].count[vector] - before[i];
      if (got && !(mask & 1u << i)) return false;
      sum += got;
    }
    if (sum != 1) return false;
  }
  return true;
}

static void test_flat_and_cluster(void) {
  bool flat = true, lowest = true;
  for (unsigned i = 0; i < cpu_count; ++i) set_logical_of(i, 0xffffffff, 1u << i);
  for (unsigned mask = 1; mask <= everybody(); ++mask) {
    flat = flat && sent_comes_to(mask % cpu_count, mask, kIcrLogical | 0x68, 0x68, mask);
    lowest = lowest && one_of(mask, kIcrLogical | kIcrLowest | 0x69, 0x69, mask);
  }
  check_in(group, "logical-flat", flat, true);
  check_in(group, "logical-flat-nobody", sent_comes_to(0, 0x80, kIcrLogical | 0x68, 0x68, 0), true);
  check_in(group, "logical-flat-broadcast", sent_comes_to(0, 0xff, kIcrLogical | 0x68, 0x68, everybody()), true);
  check_in(group, "lowest-priority-takes-one", lowest, true);
  check_in(group, "lowest-priority-others", one_of(0xff, kIcrLogical | kIcrLowest | 0x69, 0x69, everybody()), true);
  set_logical_of(1, 0xffffffff, 6);
  check_in(group, "logical-flat-two-bits", sent_comes_to(0, 4, kIcrLogical | 0x68, 0x68, cpu_count > 2 ? 6 : 2), true);
  check_in(group, "nmi-logical", sent_comes_to(0, 2, kIcrLogical | kIcrNmi, kNmi, 2), true);
  // Two clusters: 1 holds the even processors, 2 the odd ones.
  for (unsigned i = 0; i < cpu_count; ++i) set_logical_of(i, 0x0fffffff, (1 + i % 2) << 4 | 1u << i / 2);
  unsigned even = 0;
  for (unsigned i = 0; i < cpu_count; i += 2) even |= 1u << i;
  const unsigned odd = everybody() & ~even;
  check_in(group, "cluster-one", sent_comes_to(0, 0x11, kIcrLogical | 0x6a, 0x6a, 1), true);
  check_in(group, "cluster-other", sent_comes_to(0, 0x21, kIcrLogical | 0x6a, 0x6a, 2), true);
  check_in(group, "cluster-all-of-one", sent_comes_to(0, 0x1f, kIcrLogical | 0x6a, 0x6a, even), true);
  check_in(group, "cluster-all-of-other", sent_comes_to(1, 0x2f, kIcrLogical | 0x6a, 0x6a, odd), true);
  check_in(group, "cluster-nobody", sent_comes_to(0, 0x3f, kIcrLogical | 0x6a, 0x6a, 0), true);
  // All ones is everybody in every model. [SDM-3A 11.6.2.2] TCG compares the cluster.
  if (!tcg_lacks("cluster-broadcast"))
    check_in(group, "cluster-broadcast", sent_comes_to(0, 0xff, kIcrLogical | 0x6a, 0x6a, everybody()), true);
  for (unsigned i = 0; i < cpu_count; ++i) set_logical_of(i, 0xffffffff, 1u << i);
}

// The logical id follows from the id: cluster in bits 31:16, one bit of 16 below. [SDM-3A 11.12.10.2]
static void test_x2apic_clusters(void) {
  bool each = true, lowest = true;
  for (unsigned mask = 1; mask <= everybody(); ++mask) {
    uint32_t destination = 0;
    for (unsigned i = 0; i < cpu_count; ++i)
      if (mask & 1u << i) destination |= 1u << (cpus[i].apic_id & 15);
    each = each && sent_comes_to(mask % cpu_count, destination, kIcrLogical | 0x68, 0x68, mask);
    lowest = lowest && one_of(destination, kIcrLogical | kIcrLowest | 0x69, 0x69, mask);
  }
  check_in(group, "cluster", each, true);
  check_in(group, "lowest-priority-takes-one", lowest, true);
  check_in(group, "cluster-nobody", sent_comes_to(0, 0x00010001, kIcrLogical | 0x68, 0x68, 0), true);
  check_in(group, "cluster-broadcast", sent_comes_to(0, 0xffffffff, kIcrLogical | 0x68, 0x68, everybody()), true);
  check_in(group, "ldr", apic_read(kLapicLdr), 1u << (cpus[0].apic_id & 15) | cpus[0].apic_id >> 4 << 16);
  check_in(group, "nmi-logical", sent_comes_to(0, 1u << (cpus[1].apic_id & 15), kIcrLogical | kIcrNmi, kNmi, 2), true);
  note(0x66);
  wrmsr(0x83f, 0x66);
  check_in(group, "self-ipi-register", came_to(0x66, 1), true);
}

// ---- a target that holds back ----
static volatile unsigned stage;  // 1: the target is ready; 2: it may open; 3: it is through
static volatile uint32_t pending[8];
static uint8_t order_of[8];
static volatile unsigned ordered;
static bool note_order(struct frame* frame) {
  if (this_cpu()->index == 1 && ordered < sizeof order_of) order_of[ordered++] = (uint8_t)frame->vector;
  apic_eoi();
  return true;
}

enum hold { kFlagOff, kTprUp, kDisabled };
static void hold_back(void* how) {
  cli();
  if ((word)how == kTprUp) {
    apic_write(kLapicTpr, 0x80);
    sti();
  }
  if ((word)how == kDisabled) {
    apic_write(kLapicSvr, 0xff);
    sti();
  }
  stage = 1;
  WAIT_FOR(stage == 2);
  for (unsigned i = 0; i < 8; ++i) pending[i] = apic_read(kLapicIrr + 16 * i);
  apic_enable();
  sti();
  stage = 3;
}
static bool is_pending(unsigned vector) { return pending[vector / 32] >> vector % 32 & 1; }

static void test_held_back(void) {
  const uint32_t target = cpus[1].apic_id;
  struct order others[2] = {{target, 0x91}, {target, 0x75}};
  for (unsigned v = 0x61; v <= 0x9f; ++v) on_vector(v, note_order);
  stage = ordered = 0;
  run_on(1, hold_back, (void*)kFlagOff);
  WAIT_FOR(stage == 1);
  note(0x61);
  send_ipi(target, 0x61);
  send_ipi(target, 0x61);
  send_ipi(target, 0x61);
  for (unsigned i = 0; i < 2; ++i) {
    const unsigned sender = cpu_count > 2 + i ? 2 + i : 0;
    if (sender) {
      run_on(sender, send_order, &others[i]);
      wait_idle(sender);
    } else {
      send_order(&others[i]);
    }
  }
  send_ipi(target, kIcrNmi);
  const bool nmi = WAIT_FOR(cpus[1].count[kNmi]);
  delay_us(500);
  check_in(group, "nothing-while-closed", ordered, 0);
  check_in(group, "nmi-while-closed", nmi, true);
  stage = 2;
  WAIT_FOR(ordered == 3);
  wait_idle(1);
  check_in(group, "irr-while-closed", is_pending(0x61) && is_pending(0x91) && is_pending(0x75) && !is_pending(0x62),
           true);
  check_in(group, "highest-first", ordered == 3 && order_of[0] == 0x91 && order_of[1] == 0x75 && order_of[2] == 0x61,
           true);

  stage = ordered = 0;
  run_on(1, hold_back, (void*)kTprUp);
  WAIT_FOR(stage == 1);
  send_ipi(target, 0x81);
  send_ipi(target, 0x90);
  WAIT_FOR(ordered == 1);
  delay_us(500);
  check_in(group, "tpr-holds-back", ordered == 1 && order_of[0] == 0x90, true);
  stage = 2;
  check_in(group, "tpr-lowered", WAIT_FOR(ordered == 2) && order_of[1] == 0x81, true);
  wait_idle(1);

  stage = ordered = 0;
  run_on(1, hold_back, (void*)kDisabled);
  WAIT_FOR(stage == 1);
  const unsigned nmis = cpus[1].count[kNmi];
  send_ipi(target, 0x70);
  send_ipi(target, kIcrNmi);
  check_in(group, "nmi-with-apic-disabled", WAIT_FOR(cpus[1].count[kNmi] == nmis + 1), true);
  stage = 2;
  wait_idle(1);
  delay_us(500);
  // [SDM-3A 11.4.7.2] TCG accepts it.
  if (!tcg_lacks("disabled-apic-takes-no-fixed")) check_in(group, "disabled-apic-takes-no-fixed", ordered, 0);
  for (unsigned v = 0x61; v <= 0x9f; ++v) on_vector(v, count_and_eoi);
}

// ---- halted ----
static volatile bool released;
static volatile unsigned wakes;
static void halt_closed(void* unused) {
  (void)unused;
  cli();
  stage = 1;
  while (!released) {
    __asm__ volatile("hlt");
    ++wakes;
  }
}
static void halt_with_tpr(void* unused) {
  (void)unused;
  cli();
  apic_write(kLapicTpr, 0xf0);
  stage = 1;
  while (!released) {
    sti_hlt();
    cli();
    ++wakes;
  }
  apic_write(kLapicTpr, 0);
  sti();
}

// An NMI that comes just before the HLT does not wake it: another one does. None may be lost, though.
static bool wake_by_nmi(unsigned wanted) {
  for (unsigned tries = 0; tries < 100; ++tries) {
    const unsigned count = cpus[1].count[kNmi];
    send_ipi(cpus[1].apic_id, kIcrNmi);
    if (!WAIT_FOR(cpus[1].count[kNmi] == count + 1)) return false;
    for (unsigned i = 0; i < 100 && wakes < wanted; ++i) delay_us(100);
    if (wakes >= wanted) return true;
  }
  return false;
}

static void test_halted(void) {
  stage = wakes = 0;
  released = false;
  run_on(1, halt_closed, 0);
  WAIT_FOR(stage == 1);
  delay_us(500);
  note(0x60);
  send_ipi(cpus[1].apic_id, 0x60);
  delay_us(2000);
  check_in(group, "closed-halt-sleeps-on", wakes == 0 && cpus[1].count[0x60] == before[1], true);
  bool each = true;
  for (unsigned i = 1; i <= 20; ++i) {
    if (i == 20) released = true;
    each = each && wake_by_nmi(i);
  }
  check_in(group, "nmi-wakes-closed-halt", each, true);
  wait_idle(1);
  check_in(group, "pending-after-halt", WAIT_FOR(cpus[1].count[0x60] == before[1] + 1), true);

  stage = wakes = 0;
  released = false;
  run_on(1, halt_with_tpr, 0);
  WAIT_FOR(stage == 1);
  delay_us(500);
  note(0x6f);
  send_ipi(cpus[1].apic_id, 0x6f);
  delay_us(2000);
  check_in(group, "halt-below-tpr-sleeps-on", wakes == 0 && cpus[1].count[0x6f] == before[1], true);
  released = true;
  check_in(group, "nmi-wakes-halt-below-tpr", wake_by_nmi(1), true);
  wait_idle(1);
  check_in(group, "pending-after-tpr", WAIT_FOR(cpus[1].count[0x6f] == before[1] + 1), true);
}

// ---- traffic ----
static volatile uint64_t letter;
static volatile unsigned received, mismatched;
static bool read_letter(struct frame* frame) {
  (void)frame;
  if (letter != received + 1ul) ++mismatched;
  apic_eoi();
  ++received;
  return true;
}
// Data written before the IPI is there in the handler; each comes once; a halted processor always wakes.
static void test_letters(const char* name, unsigned max_delay_us) {
  struct span span = span_of(5000, 250);
  uint32_t state = 99;
  bool all = true;
  received = mismatched = 0;
  letter = 0;
  on_vector(0x6c, read_letter);
  while (all && span_goes_on(&span)) {
    letter = received + 1ul;
    const unsigned want = received + 1;
    send_ipi(cpus[1].apic_id, 0x6c);
    all = WAIT_FOR(received == want);
    if (max_delay_us) delay_us(random_step(&state) % max_delay_us);
  }
  on_vector(0x6c, count_and_eoi);
  check_in(group, name, all && received == span.done, true);
  check_in(group, "data-before-ipi", mismatched, 0);
  info(name, span.done, "rounds");
}

// Everyone sends to everyone, each pair with a vector of its own, the next one when the last has arrived.
static struct barrier barrier;
static volatile unsigned lost;
static void storm(void* unused) {
  (void)unused;
  struct cpu* self = this_cpu();
  unsigned sent[kMaxCpus], start[kMaxCpus];
  const unsigned vector = 0x80 + self->index;
  for (unsigned i = 0; i < cpu_count; ++i) start[i] = cpus[i].count[vector], sent[i] = 0;
  struct span span = span_of(3000, 300);
  sti();
  barrier_wait(&barrier, cpu_count);
  while (span_goes_on(&span)) {
    for (unsigned to = 0; to < cpu_count; ++to) {
      if (cpus[to].count[vector] - start[to] != sent[to]) continue;
      ++sent[to];
      send_ipi(cpus[to].apic_id, vector);
    }
    if (span.done % 64 == 0) send_ipi(cpus[(self->index + 1) % cpu_count].apic_id, kIcrNmi);
  }
  for (unsigned to = 0; to < cpu_count; ++to)
    if (!WAIT_FOR(cpus[to].count[vector] - start[to] == sent[to])) lost = lost + 1;
  barrier_wait(&barrier, cpu_count);
}

static void test_storm(void) {
  lost = 0;
  run_everywhere(cpu_count, storm, 0);
  delay_us(1000);
  check_in(group, "storm-none-lost", lost, 0);
  uint64_t total = 0;
  for (unsigned i = 0; i < cpu_count; ++i)
    for (unsigned from = 0; from < cpu_count; ++from) total += cpus[i].count[0x80 + from];
  info("storm", total, "interrupts");
}

// ---- the modes ----
static void enter_x2apic(void* unused) {
  (void)unused;
  wrmsr(kMsrApicBase, rdmsr(kMsrApicBase) | APIC_BASE_X2);
  apic_enable();
}

static bool only_count(struct frame* frame) {
  (void)frame;
  return true;
}

static void test_everything(void) {
  for (unsigned v = kFirst; v <= kLast; ++v) on_vector(v, count_and_eoi);
  on_vector(kNmi, only_count);
  sti();
  test_destinations();
  if (x2)
    test_x2apic_clusters();
  else
    test_flat_and_cluster();
  test_held_back();
  test_halted();
  test_letters("letters-to-a-halted-processor", 30);
  test_letters("letters-at-full-rate", 0);
  test_storm();
}

void guest_main(void) {
  smp_start();
  if (cpu_count < 2) {
    check("several-processors", false);
    finish();
  }
  group = "xapic";
  test_everything();
  if (!(cpuid(1, 0).ecx & (1u << 21))) {
    skip("x2apic", "not there");
    finish();
  }
  for (unsigned i = 1; i < cpu_count; ++i) {
    run_on(i, enter_x2apic, 0);
    wait_idle(i);
    delay_us(100);
  }
  enter_x2apic(0);
  group = "x2apic";
  x2 = true;
  test_everything();
  // INIT leaves the mode. [SDM-3A 11.12.5.1]
  check_in(group, "starts-again", start_cpu(1, kTrampolinePage), true);
  check_in(group, "init-keeps-the-mode", cpus[1].early.apic_base, LAPIC_BASE | APIC_BASE_ENABLE | APIC_BASE_X2);
  check_in(group, "init-resets-svr", cpus[1].early.svr, 0xff);
  finish();
}
