// SPDX-License-Identifier: Apache-2.0
// Interrupt controllers: 8259 pair, IOAPIC, local APIC in xAPIC and x2APIC mode, NMI.
// [8259A data sheet; 82093AA data sheet; SDM-3A 11]
#include "guest.h"

void guest_main(void);

enum { kCom1 = 0x3f8, kIer = 1, kMcr = 4, kThre = 2, kOut2 = 8 };
enum { kMsrApicBase = 0x1b, kApicEnable = 1 << 11, kX2Apic = 1 << 10 };
#define IOAPIC_BASE 0xfec00000ul

static uint32_t ioapic_read(unsigned index) {
  *(volatile uint32_t*)IOAPIC_BASE = index;
  return *(volatile uint32_t*)(IOAPIC_BASE + 0x10);
}
static void ioapic_write(unsigned index, uint32_t value) {
  *(volatile uint32_t*)IOAPIC_BASE = index;
  *(volatile uint32_t*)(IOAPIC_BASE + 0x10) = value;
}
static void route(unsigned gsi, uint64_t entry) {
  ioapic_write(0x10 + 2 * gsi, 1u << 16);
  ioapic_write(0x11 + 2 * gsi, (uint32_t)(entry >> 32));
  ioapic_write(0x10 + 2 * gsi, (uint32_t)entry);
}

// The order in which vectors came.
static uint8_t order[16];
static unsigned order_count;
static bool note_and_eoi(struct frame* frame) {
  if (order_count < sizeof order) order[order_count++] = (uint8_t)frame->vector;
  lapic_write(kLapicEoi, 0);
  return true;
}
static void window(void) {  // lets interrupts in for a moment
  for (unsigned i = 0; i < 3; ++i) __asm__ volatile("sti; nop; nop; cli" ::: "memory");
}

// ---- the UART's transmitter-empty interrupt as an interrupt source that software controls ----
static void uart_interrupt(bool on) {
  while (!(inb(kCom1 + 5) & 0x40)) {
  }
  outb(kCom1 + kMcr, kOut2 | 3);
  outb(kCom1 + kIer, on ? kThre : 0);
}

// ---- PIC ----
static uint8_t pic_register(uint16_t port, bool isr) {
  outb(port, isr ? 0x0b : 0x0a);
  return inb(port);
}
static uint8_t isr_in_handler;
static bool on_irq4(struct frame* frame) {
  (void)frame;
  isr_in_handler = pic_register(0x20, true);
  uart_interrupt(false);
  pic_eoi(4);
  return true;
}
static bool on_irq4_no_eoi(struct frame* frame) {
  (void)frame;
  uart_interrupt(false);
  return true;
}

static void test_pic(void) {
  lapic_write(kLapicLvtLint0, 0x700);
  pic_init(0xef, 0xff);
  check_eq("pic-mask-reads-back", inb(0x21), 0xef);
  set_handler(0x24, on_irq4);
  uart_interrupt(true);
  check("pic-irr", pic_register(0x20, false) & 0x10);
  window();
  check_eq("pic-irq4", interrupt_count[0x24], 1);
  check_eq("pic-isr-in-handler", isr_in_handler, 0x10);
  check_eq("pic-isr-after-eoi", pic_register(0x20, true), 0);
  window();
  check_eq("pic-irq4-once", interrupt_count[0x24], 1);
  // Masked: remembered in IRR, delivered when unmasked.
  outb(0x21, 0xff);
  uart_interrupt(true);
  window();
  check_eq("pic-masked", interrupt_count[0x24], 1);
  outb(0x21, 0xef);
  window();
  check_eq("pic-unmasked", interrupt_count[0x24], 2);
  // Without EOI nothing of the same level comes again; a specific EOI opens it.
  set_handler(0x24, on_irq4_no_eoi);
  uart_interrupt(true);
  window();
  check_eq("pic-isr-stays", pic_register(0x20, true), 0x10);
  uart_interrupt(true);
  window();
  check_eq("pic-in-service-blocks", interrupt_count[0x24], 3);
  set_handler(0x24, on_irq4);
  outb(0x20, 0x64);
  window();
  check_eq("pic-specific-eoi", interrupt_count[0x24], 4);
  // Other vector bases.
  outb(0x20, 0x11), outb(0x21, 0x70), outb(0x21, 4), outb(0x21, 1), outb(0x21, 0xef);
  set_handler(0x74, on_irq4);
  uart_interrupt(true);
  window();
  check_eq("pic-vector-base", interrupt_count[0x74], 1);
  // Automatic EOI.
  outb(0x20, 0x11), outb(0x21, 0x20), outb(0x21, 4), outb(0x21, 3), outb(0x21, 0xef);
  set_handler(0x24, on_irq4_no_eoi);
  uart_interrupt(true);
  window();
  check_eq("pic-auto-eoi", pic_register(0x20, true), 0);
  pic_init(0xff, 0xff);
  // LINT0 masked: the PIC's INTR does not get through.
  lapic_write(kLapicLvtLint0, 0x10700);
  pic_init(0xef, 0xff);
  const unsigned before = interrupt_count[0x24];
  uart_interrupt(true);
  window();
  check_eq("lint0-masked", interrupt_count[0x24], before);
  uart_interrupt(false);
  pic_init(0xff, 0xff);
}

// ---- IOAPIC ----
static uint32_t entry_in_handler;
static bool on_edge(struct frame* frame) {
  (void)frame;
  uart_interrupt(false);
  lapic_write(kLapicEoi, 0);
  return true;
}
static bool on_level(struct frame* frame) {
  (void)frame;
  entry_in_handler = ioapic_read(0x18);
  if (interrupt_count[0x51] >= 2) uart_interrupt(false);  // still asserted at the first EOI: it comes again
  lapic_write(kLapicEoi, 0);
  return true;
}

static void test_ioapic(void) {
  check("ioapic-version", (ioapic_read(1) & 0xff) == 0x11 || (ioapic_read(1) & 0xff) == 0x20);
  check_eq("ioapic-entries", (ioapic_read(1) >> 16) & 0xff, 23);
  route(4, 0x50 | 1u << 16);
  check_eq("ioapic-entry-reads-back", ioapic_read(0x18), 0x50 | 1u << 16);
  ioapic_write(0x18, 0x1f050 | 1u << 14 | 1u << 12);
  check_eq("ioapic-read-only-bits", ioapic_read(0x18) & (1u << 14 | 1u << 12), 0);
  set_handler(0x50, on_edge);
  route(4, 0x50);
  uart_interrupt(true);
  window();
  check_eq("ioapic-edge", interrupt_count[0x50], 1);
  uart_interrupt(true);
  window();
  check_eq("ioapic-edge-again", interrupt_count[0x50], 2);
  route(4, 0x50 | 1u << 16);
  uart_interrupt(true);
  window();
  check_eq("ioapic-masked", interrupt_count[0x50], 2);
  uart_interrupt(false);

  set_handler(0x51, on_level);
  route(4, 0x51 | 1u << 15);
  uart_interrupt(true);
  window();
  window();
  check_eq("ioapic-level-until-deasserted", interrupt_count[0x51], 2);
  check("ioapic-remote-irr-in-service", entry_in_handler & (1u << 14));
  check("ioapic-remote-irr-cleared", !(ioapic_read(0x18) & (1u << 14)));
  // Logical destination.
  lapic_write(kLapicLdr, 1u << 24);
  route(4, 0x50 | 1u << 11 | 1ul << 56);
  uart_interrupt(true);
  window();
  check_eq("ioapic-logical", interrupt_count[0x50], 3);
  route(4, 0x50 | 1u << 11 | 2ul << 56);  // nobody
  uart_interrupt(true);
  window();
  check_eq("ioapic-logical-nobody", interrupt_count[0x50], 3);
  uart_interrupt(false);
  route(4, 1u << 16);
}

// ---- local APIC ----
static void self_ipi(unsigned vector) { lapic_write(kLapicIcrLow, 0x40000u | vector); }
static bool irr_has(unsigned vector) { return lapic_read(kLapicIrr + 0x10 * (vector / 32)) & (1u << (vector % 32)); }
static bool isr_has(unsigned vector) { return lapic_read(kLapicIsr + 0x10 * (vector / 32)) & (1u << (vector % 32)); }
static uint32_t ppr_in_handler;
static bool nesting_handler(struct frame* frame) {
  if (order_count < sizeof order) order[order_count++] = (uint8_t)frame->vector;
  if (frame->vector == 0x61) {
    ppr_in_handler = lapic_read(kLapicPpr);
    self_ipi(0x65);  // same class: waits
    self_ipi(0x72);  // higher class: nests
    __asm__ volatile("sti; nop; nop; cli" ::: "memory");
    if (order_count < sizeof order) order[order_count++] = 0xee;
    check("lapic-same-class-waits", irr_has(0x65) && isr_has(0x61) && !isr_has(0x72));
  }
  lapic_write(kLapicEoi, 0);
  return true;
}

static void test_lapic(void) {
  for (unsigned v = 0x60; v < 0xa0; ++v) set_handler(v, note_and_eoi);
  order_count = 0;
  self_ipi(0x61);
  self_ipi(0x91);
  self_ipi(0x75);
  check("lapic-irr", irr_has(0x61) && irr_has(0x91) && irr_has(0x75) && !irr_has(0x62));
  window();
  check("lapic-priority-order", order_count == 3 && order[0] == 0x91 && order[1] == 0x75 && order[2] == 0x61);
  // TPR holds back its class and below; CR8 is its upper half.
  lapic_write(kLapicTpr, 0x70);
  check_eq("cr8-mirrors-tpr", read_cr8(), 7);
  order_count = 0;
  self_ipi(0x75);
  self_ipi(0x80);
  window();
  check("tpr-holds-back", order_count == 1 && order[0] == 0x80 && irr_has(0x75));
  write_cr8(6);
  check_eq("tpr-mirrors-cr8", lapic_read(kLapicTpr), 0x60);
  window();
  check("cr8-lowered-delivers", order_count == 2 && order[1] == 0x75);
  write_cr8(0);
  // Nesting.
  order_count = 0;
  set_handler(0x61, nesting_handler);
  set_handler(0x72, nesting_handler);
  self_ipi(0x61);
  window();
  check("lapic-nesting", order_count == 4 && order[0] == 0x61 && order[1] == 0x72 && order[2] == 0xee && order[3] == 0x65);
  check_eq("lapic-ppr-in-handler", ppr_in_handler & 0xf0, 0x60);
  check_eq("lapic-ppr-idle", lapic_read(kLapicPpr), 0);
  // To oneself by physical id, and to all.
  order_count = 0;
  lapic_write(kLapicIcrHigh, lapic_read(kLapicId));
  lapic_write(kLapicIcrLow, 0x63);
  lapic_write(kLapicIcrLow, 0x80000 | 0x64);  // all including self
  lapic_write(kLapicIcrLow, 0xc0000 | 0x66);  // all but self
  window();
  check("icr-destinations", order_count == 2 && order[0] == 0x64 && order[1] == 0x63);
  // Vectors below 16 are illegal. [SDM-3A 11.5.3]
  set_handler(0x99, note_and_eoi);
  lapic_write(kLapicLvtError, 0x99);
  lapic_write(kLapicEsr, 0);
  order_count = 0;
  if (!tcg_lacks("esr-send-illegal-vector")) {
    lapic_write(kLapicIcrLow, 0x40000 | 5);
    window();
    lapic_write(kLapicEsr, 0);
    check("esr-send-illegal-vector", lapic_read(kLapicEsr) & (1u << 5 | 1u << 6));
    check("error-interrupt", order_count == 1 && order[0] == 0x99);
  }
  lapic_write(kLapicLvtError, 1u << 16);
  lapic_write(kLapicEsr, 0);
  // Disabled by software: LVT entries are masked and stay so.
  lapic_write(kLapicLvtTimer, 0x62);
  lapic_write(kLapicSvr, 0xff);
  if (!tcg_lacks("svr-off-masks-lvt")) {  // [SDM-3A 11.4.7.2]
    check("svr-off-masks-lvt", lapic_read(kLapicLvtTimer) & (1u << 16));
    lapic_write(kLapicSvr, 0x1ff);
    check("svr-on-leaves-mask", lapic_read(kLapicLvtTimer) & (1u << 16));
  }
  lapic_write(kLapicSvr, 0x1ff);
}

// A read-modify-write instruction on a device register reads it first.
static void test_lapic_read_modify_write(void) {
  lapic_write(kLapicTpr, 0x20);
  lapic_write(kLapicEsr, 0);  // another value on the way in between
  __asm__ volatile("orl $0x10, %0" : "+m"(*(volatile uint32_t*)(LAPIC_BASE + kLapicTpr))::"cc");
  check_eq("tpr-read-modify-write", lapic_read(kLapicTpr), 0x30);
  lapic_write(kLapicTpr, 0);
}

// ---- between which instructions an interrupt comes ----
static volatile uint32_t noted;
static word noted_ip, shadowed_ip;
static unsigned in_shadow;
static bool note_ip(struct frame* frame) {
  ++noted;
  if (frame->ip == shadowed_ip) ++in_shadow;
  noted_ip = frame->ip;
  lapic_write(kLapicEoi, 0);
  return true;
}
static void test_shadows(void) {
  word after;
  set_handler(0x68, note_ip);
  self_ipi(0x68);
  __asm__ volatile("lea 1f(%%rip), %0; sti; nop; 1: nop; nop; cli" : "=r"(after)::"memory");
  check_eq("sti-shadow", noted_ip, after);
  // A loop without a HLT, a call or a device access is left, too.
  noted = 0;
  lapic_write(kLapicDivide, 0xb);
  lapic_write(kLapicLvtTimer, 0x68);
  lapic_write(kLapicInitialCount, 1000000);
  __asm__ volatile("sti; 1: cmpl $0, %0; je 1b; cli" ::"m"(noted) : "memory", "cc");
  check_eq("tight-loop", noted, 1);
  // Of many interrupts none comes right after MOV SS. [SDM-2B MOV]
  noted = 0;
  in_shadow = 0;
  lapic_write(kLapicLvtTimer, 0x68 | 1u << 17);
  lapic_write(kLapicInitialCount, 200000);
  __asm__ volatile(
      "lea 2f(%%rip), %%rcx\n"
      "mov %%rcx, %1\n"
      "mov %%ss, %%eax\n"
      "sti\n"
      "1: mov %%eax, %%ss\n"
      "2: nop\n"
      "cmpl $50, %0\n"
      "jb 1b\n"
      "cli\n"
      : "+m"(noted), "=m"(shadowed_ip)::"rax", "rcx", "memory", "cc");
  lapic_write(kLapicLvtTimer, 1u << 16);
  lapic_write(kLapicInitialCount, 0);
  check_eq("mov-ss-shadow", in_shadow, 0);
}

// ---- NMI ----
static volatile unsigned nmis, nmi_depth, nmi_max_depth;
static bool on_nmi(struct frame* frame) {
  (void)frame;
  ++nmis;
  if (++nmi_depth > nmi_max_depth) nmi_max_depth = nmi_depth;
  if (nmis == 1) {
    lapic_write(kLapicIcrLow, 0x400);  // another one: held until IRET [SDM-3A 6.7.1]
    for (volatile unsigned i = 0; i < 1000; ++i) {
    }
  }
  --nmi_depth;
  return true;
}
static void test_nmi(void) {
  set_handler(2, on_nmi);
  lapic_write(kLapicIcrHigh, lapic_read(kLapicId));
  lapic_write(kLapicIcrLow, 0x400);
  for (volatile unsigned i = 0; i < 100000 && nmis < 2; ++i) {
  }
  check_eq("nmi-with-interrupts-off", nmis, 2);
  check_eq("nmi-does-not-nest", nmi_max_depth, 1);
}

// ---- x2APIC ----
static void x2apic_write_bad(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "wrmsr" ::"c"(0x80bu), "a"(1), "d"(0));  // EOI must be 0
}
static void x2apic_read_bad(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "rdmsr" ::"c"(0x831u) : "eax", "edx");  // the upper ICR is gone
}
static void x2apic_read_in_xapic(void* unused) {
  (void)unused;
  __asm__ volatile(MARK "rdmsr" ::"c"(0x802u) : "eax", "edx");
}
static void back_to_xapic_directly(void* unused) {
  (void)unused;
  const uint64_t base = rdmsr(kMsrApicBase);
  __asm__ volatile(MARK "wrmsr" ::"c"(kMsrApicBase), "a"((uint32_t)(base & ~(uint64_t)kX2Apic)), "d"((uint32_t)(base >> 32)));
}
static bool note_and_eoi_x2(struct frame* frame) {
  if (order_count < sizeof order) order[order_count++] = (uint8_t)frame->vector;
  wrmsr(0x80b, 0);
  return true;
}
static void test_x2apic(void) {
  const uint64_t base = rdmsr(kMsrApicBase);
  check_eq("apic-base", base & ~0xffful, LAPIC_BASE);
  check("apic-base-flags", (base & kApicEnable) && (base & 1u << 8));
  if (!(cpuid(1, 0).ecx & (1u << 21))) {
    skip("x2apic", "not there");
    return;
  }
  expect_trap("x2apic-msr-in-xapic-mode", x2apic_read_in_xapic, 0, 13, 0);
  wrmsr(kMsrApicBase, base | kX2Apic);
  check_eq("x2apic-id", rdmsr(0x802), cpuid(0xb, 0).edx);
  check_eq("x2apic-svr", rdmsr(0x80f) & 0x1ff, 0x1ff);
  order_count = 0;
  set_handler(0x88, note_and_eoi_x2);
  wrmsr(0x83f, 0x88);
  window();
  check("x2apic-self-ipi", order_count == 1);
  wrmsr(0x830, rdmsr(0x802) << 32 | 0x88);
  window();
  check("x2apic-icr", order_count == 2);
  expect_trap("x2apic-eoi-nonzero", x2apic_write_bad, 0, 13, 0);
  expect_trap("x2apic-no-upper-icr", x2apic_read_bad, 0, 13, 0);
  expect_trap("x2apic-to-xapic-directly", back_to_xapic_directly, 0, 13, 0);
  wrmsr(kMsrApicBase, base & ~(uint64_t)(kX2Apic | kApicEnable));
  wrmsr(kMsrApicBase, base);
  check_eq("back-in-xapic", lapic_read(kLapicSvr) & 0x100, 0);  // disabling reset it
}

void guest_main(void) {
  lapic_write(kLapicSvr, 0x1ff);
  lapic_write(kLapicTpr, 0);
  test_pic();
  test_ioapic();
  test_lapic();
  test_lapic_read_modify_write();
  test_shadows();
  test_nmi();
  test_x2apic();
  finish();
}
