// SPDX-License-Identifier: Apache-2.0
// What the guests need of the ACPI tables: processors, I/O APIC, HPET, the PM timer. [ACPI-6.5 5.2]
#include "smp.h"

struct platform platform;

struct table {
  char signature[4];
  uint32_t length;
  uint8_t rest[28];
} __attribute__((packed));

static uint32_t get32(const uint8_t* at) {
  return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}
static uint64_t get64(const uint8_t* at) { return get32(at) | (uint64_t)get32(at + 4) << 32; }

static bool is_text(const void* at, const char* text) {
  for (const char* c = at; *text; ++c, ++text)
    if (*c != *text) return false;
  return true;
}
static bool sums_to_zero(const uint8_t* at, uint32_t count) {
  uint8_t sum = 0;
  while (count--) sum = (uint8_t)(sum + *at++);
  return sum == 0;
}

// [ACPI-6.5 5.2.5.1]
static const uint8_t* find_rsdp(void) {
  word segment_at = 0x40e;
  __asm__("" : "+r"(segment_at));  // else GCC takes it for a null pointer with an offset
  const word ebda = (word) * (const uint16_t*)segment_at << 4;
  for (word at = ebda; ebda && at < ebda + 1024; at += 16)
    if (is_text((void*)at, "RSD PTR ") && sums_to_zero((uint8_t*)at, 20)) return (uint8_t*)at;
  for (word at = 0xe0000; at < 0x100000; at += 16)
    if (is_text((void*)at, "RSD PTR ") && sums_to_zero((uint8_t*)at, 20)) return (uint8_t*)at;
  return 0;
}

static void add_cpu(uint32_t apic_id, uint32_t flags) {
  if (platform.cpus_listed == kMaxCpus) return;
  platform.cpus[platform.cpus_listed].apic_id = apic_id;
  platform.cpus[platform.cpus_listed++].is_enabled = flags & 1;
}

// [ACPI-6.5 5.2.12]
static void read_madt(const struct table* madt) {
  const uint8_t* at = (const uint8_t*)madt;
  const uint8_t* end = at + madt->length;
  enum { kLocalApic = 0, kIoApic = 1, kLocalX2Apic = 9 };
  for (at += 44; at + 2 <= end && at[1] >= 2; at += at[1]) {
    if (at[0] == kLocalApic) add_cpu(at[3], get32(at + 4));
    if (at[0] == kLocalX2Apic) add_cpu(get32(at + 4), get32(at + 8));
    if (at[0] == kIoApic && !platform.ioapic_base) platform.ioapic_base = get32(at + 4);
  }
}

static void read_table(const struct table* table) {
  const uint8_t* at = (const uint8_t*)table;
  if (!sums_to_zero(at, table->length)) return;
  if (is_text(table, "APIC")) read_madt(table);
  if (is_text(table, "HPET")) platform.hpet_base = get64(at + 44);
  if (is_text(table, "FACP")) platform.pm_timer_port = get32(at + 76);
}

bool acpi_read(void) {
  const uint8_t* rsdp = find_rsdp();
  if (!rsdp) return false;
  const uint64_t xsdt = rsdp[15] >= 2 ? get64(rsdp + 24) : 0;
  const uint8_t* root = (const uint8_t*)(word)(xsdt ? xsdt : get32(rsdp + 16));
  const unsigned entry_bytes = xsdt ? 8 : 4;
  const uint32_t length = ((const struct table*)root)->length;
  for (uint32_t at = 36; at + entry_bytes <= length; at += entry_bytes)
    read_table((const struct table*)(word)(xsdt ? get64(root + at) : get32(root + at)));
  return platform.cpus_listed > 0;
}
