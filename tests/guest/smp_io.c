// SPDX-License-Identifier: Apache-2.0
// Devices used by several processors at once: ports and memory-mapped registers, each with the locking that a driver
// would have, and none where the access is one.
#include "smp.h"

void guest_main(void);

static struct barrier barrier;
static volatile unsigned wrong;
static spinlock device_lock;
static volatile uint64_t done[kMaxCpus];

static void fail_if(bool is_wrong) {
  if (is_wrong) __atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST);
}

// Runs `one` in rounds on all processors at once, with the round's number.
static void (*current)(unsigned self, unsigned round);
static unsigned current_ms;
static void in_rounds(void* unused) {
  (void)unused;
  const unsigned self = this_cpu()->index;
  barrier_wait(&barrier, cpu_count);
  struct span span = span_of(3000, current_ms);
  while (span_goes_on(&span)) current(self, (unsigned)span.done);
  done[self] = span.done;
  barrier_wait(&barrier, cpu_count);
}
static void together(const char* name, void (*one)(unsigned, unsigned), unsigned ms) {
  current = one;
  current_ms = ms;
  wrong = 0;
  run_everywhere(cpu_count, in_rounds, 0);
  check_eq(name, wrong, 0);
  uint64_t rounds = 0;
  for (unsigned i = 0; i < cpu_count; ++i) rounds += done[i];
  info(name, rounds, "rounds");
}

// ---- UART ----
enum { kCom1 = 0x3f8, kCom2 = 0x2f8, kScratch = 7, kMcr = 4, kLsr = 5, kLoopback = 0x10 };
static void scratch_locked(unsigned self, unsigned round) {
  const uint8_t value = (uint8_t)(self * 61 + round);
  lock(&device_lock);
  outb(kCom1 + kScratch, value);
  fail_if(inb(kCom1 + kScratch) != value);
  unlock(&device_lock);
}
static void scratch_free(unsigned self, unsigned round) {  // what anybody wrote, nothing else
  outb(kCom1 + kScratch, (uint8_t)(0x50 | self << 1 | (round & 1)));
  fail_if((inb(kCom1 + kScratch) & 0xf0) != 0x50);
}
static uint16_t loop_port;
static void loopback(unsigned self, unsigned round) {
  const uint8_t value = (uint8_t)(self * 31 + round);
  lock(&device_lock);
  outb(loop_port, value);
  bool came = false;
  for (unsigned tries = 0; tries < 100000 && !came; ++tries) came = inb(loop_port + kLsr) & 1;
  fail_if(!came || inb(loop_port) != value);
  unlock(&device_lock);
}
static void test_loopback(void) {
  outb(kCom2 + kScratch, 0x5a);
  if (inb(kCom2 + kScratch) != 0x5a) {
    skip("uart-loopback", "no second UART");
    return;
  }
  loop_port = kCom2;
  outb(kCom2 + 1, 0);
  outb(kCom2 + 2, 0);
  outb(kCom2 + kMcr, kLoopback);
  while (inb(kCom2 + kLsr) & 1) inb(kCom2);
  together("uart-loopback", loopback, 60);
  outb(kCom2 + kMcr, 0);
}

// ---- index and data ports ----
static void cmos(unsigned self, unsigned round) {
  const uint8_t index = (uint8_t)(0x60 + self), value = (uint8_t)round;
  lock(&device_lock);
  outb(0x70, index);
  outb(0x71, value);
  unlock(&device_lock);
  lock(&device_lock);
  outb(0x70, index);
  fail_if(inb(0x71) != value);
  unlock(&device_lock);
}
static void pci_ports(unsigned self, unsigned round) {
  const uint32_t address = 0x80000000 | (round & 1 ? 0 : 8);
  static uint32_t first[2];
  (void)self;
  lock(&device_lock);
  outl(0xcf8, address);
  const uint32_t value = inl(0xcfc);
  fail_if(inl(0xcf8) != address);
  uint32_t* known = &first[round & 1];
  if (!*known) *known = value;
  fail_if(value != *known);
  unlock(&device_lock);
}
static void pic_masks(unsigned self, unsigned round) {
  const uint16_t port = self & 1 ? 0xa1 : 0x21;
  static spinlock locks[2];
  lock(&locks[self & 1]);
  outb(port, (uint8_t)round);
  fail_if(inb(port) != (uint8_t)round);
  outb(port, 0xff);
  unlock(&locks[self & 1]);
}

// ---- memory-mapped registers ----
static volatile uint32_t* ioapic(void) { return (volatile uint32_t*)platform.ioapic_base; }
static void ioapic_entries(unsigned self, unsigned round) {
  const unsigned index = 0x10 + 2 * (16 + self % 8);
  const uint32_t value = 1u << 16 | (0x30 + (round & 0x7f));
  lock(&device_lock);
  ioapic()[0] = index;
  ioapic()[4] = value;
  unlock(&device_lock);
  lock(&device_lock);
  ioapic()[0] = index;
  fail_if((ioapic()[4] & 0x1ffff) != value);
  ioapic()[0] = 1;
  fail_if((ioapic()[4] >> 16 & 0xff) != 23);
  unlock(&device_lock);
}
// A read-modify-write of a device's register is one: each processor has a bit of the vector of a masked entry.
static void ioapic_locked(unsigned self, unsigned round) {
  (void)round;
  volatile uint32_t* data = &ioapic()[4];
  const uint32_t bit = 1u << self;
  const bool before = *data & bit;
  __asm__ volatile("lock xorl %1, %0" : "+m"(*data) : "r"(bit) : "cc", "memory");
  fail_if(!!(*data & bit) == before);
}
static void local_apic(unsigned self, unsigned round) {
  fail_if(apic_id() != cpus[self].apic_id);
  apic_write(kLapicTpr, (self << 4) | (round & 15));
  fail_if(apic_read(kLapicTpr) != ((self << 4) | (round & 15)));
  const word cr8 = read_cr8();
  fail_if(cr8 != self);
  write_cr8(0);
}
static volatile uint32_t* hpet(unsigned offset) { return (volatile uint32_t*)(platform.hpet_base + offset); }
static volatile uint32_t last_count;
static void hpet_counter(unsigned self, unsigned round) {
  (void)self;
  (void)round;
  lock(&device_lock);
  const uint32_t now = *hpet(0xf0);
  fail_if((int32_t)(now - last_count) < 0);
  last_count = now;
  unlock(&device_lock);
}
static volatile uint32_t last_ticks;
static void pm_timer(unsigned self, unsigned round) {
  (void)self;
  (void)round;
  lock(&device_lock);
  const uint32_t now = inl((uint16_t)platform.pm_timer_port) & 0xffffff;
  fail_if(((now - last_ticks) & 0xffffff) > 0x800000);
  last_ticks = now;
  unlock(&device_lock);
}

// ---- different devices at once, no lock between them ----
static void a_device_each(unsigned self, unsigned round) {
  switch (self & 3) {
    case 0:
      outb(kCom1 + kScratch, (uint8_t)round);
      fail_if(inb(kCom1 + kScratch) != (uint8_t)round);
      break;
    case 1:
      outb(0x70, 0x60);
      outb(0x71, (uint8_t)round);
      fail_if(inb(0x71) != (uint8_t)round);
      break;
    case 2:
      ioapic()[0] = 0x10 + 2 * 20;
      ioapic()[4] = 1u << 16 | (round & 0xff);
      fail_if((ioapic()[4] & 0x100ff) != (1u << 16 | (round & 0xff)));
      break;
    default: outl(0xcf8, 0x80000000 | (round & 0xff) << 8); fail_if(inl(0xcf8) != (0x80000000 | (round & 0xff) << 8));
  }
}
static void nothing_there(unsigned self, unsigned round) {
  fail_if(inb((uint16_t)(0x5658 + 16 * self)) != 0xff);
  outb((uint16_t)(0x1f0 + self), (uint8_t)round);
  fail_if(*(volatile uint32_t*)(0xfed80000ul + 4096 * self) != 0xffffffff &&
          *(volatile uint32_t*)(0xfed80000ul + 4096 * self) != 0);
}

// ---- whole lines from everybody: the runner sees them ----
static void say(unsigned self, unsigned round) {
  if (round > 3) return;
  lock(&device_lock);
  print("line ");
  print_decimal(self);
  print(" ");
  print_decimal(round);
  print("\n");
  unlock(&device_lock);
}

void guest_main(void) {
  smp_start();
  if (cpu_count < 2) {
    check("several-processors", false);
    finish();
  }
  together("uart-scratch-locked", scratch_locked, 60);
  together("uart-scratch-free", scratch_free, 60);
  test_loopback();
  together("cmos", cmos, 60);
  together("pci-configuration-ports", pci_ports, 60);
  together("pic-masks", pic_masks, 60);
  if (platform.ioapic_base) {
    together("ioapic-entries", ioapic_entries, 60);
    ioapic()[0] = 0x10 + 2 * 20;
    ioapic()[4] = 1u << 16;
    together("ioapic-locked-read-modify-write", ioapic_locked, 60);
  } else {
    check("ioapic-in-madt", false);
  }
  together("local-apic-of-ones-own", local_apic, 60);
  if (platform.hpet_base) {
    *hpet(0x10) |= 1;
    last_count = *hpet(0xf0);
    together("hpet-counter", hpet_counter, 60);
  } else {
    skip("hpet-counter", "no HPET");
  }
  if (platform.pm_timer_port) {
    last_ticks = inl((uint16_t)platform.pm_timer_port) & 0xffffff;
    together("pm-timer", pm_timer, 60);
  } else {
    check("pm-timer-in-fadt", false);
  }
  together("a-device-each", a_device_each, 60);
  together("nothing-there", nothing_there, 60);
  together("lines", say, 60);
  finish();
}
