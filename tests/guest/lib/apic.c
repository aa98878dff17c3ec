// SPDX-License-Identifier: Apache-2.0
// The local APIC in xAPIC and x2APIC mode behind the xAPIC's register offsets. [SDM-3A 11.4, 11.12]
#include "smp.h"

bool in_x2apic_mode(void) { return rdmsr(kMsrApicBase) & APIC_BASE_X2; }

uint32_t apic_read(unsigned reg) { return in_x2apic_mode() ? (uint32_t)rdmsr(kMsrX2Apic + reg / 16) : lapic_read(reg); }

void apic_write(unsigned reg, uint32_t value) {
  if (in_x2apic_mode())
    wrmsr(kMsrX2Apic + reg / 16, value);
  else
    lapic_write(reg, value);
}

uint32_t apic_id(void) { return in_x2apic_mode() ? apic_read(kLapicId) : apic_read(kLapicId) >> 24; }

void apic_eoi(void) { apic_write(kLapicEoi, 0); }

void apic_enable(void) {
  apic_write(kLapicSvr, 0x100 | kSpuriousVector);
  apic_write(kLapicTpr, 0);
}

void send_ipi(uint32_t destination, uint32_t low) {
  if (in_x2apic_mode()) {
    // The write does not wait for earlier stores. [SDM-3A 11.12.3]
    __asm__ volatile("mfence; lfence" ::: "memory");
    wrmsr(kMsrX2Apic + kLapicIcrLow / 16, (uint64_t)destination << 32 | low);
    return;
  }
  // An interrupt handler may send one in between: both halves are ours only with interrupts off.
  const word flags = read_flags();
  cli();
  while (lapic_read(kLapicIcrLow) & kIcrPending) pause();
  lapic_write(kLapicIcrHigh, destination << 24);
  lapic_write(kLapicIcrLow, low);
  while (lapic_read(kLapicIcrLow) & kIcrPending) pause();
  write_flags(flags);
}
