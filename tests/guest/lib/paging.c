// SPDX-License-Identifier: Apache-2.0
// Four-level page tables, for 64-bit guests.
#include "guest.h"

enum { kPoolPages = 96 };
static uint8_t pool[kPoolPages][4096] __attribute__((aligned(4096)));
static unsigned pool_used;

void* allocate_page(void) {
  if (pool_used == kPoolPages) {
    print("FAIL out-of-pages\n");
    finish();
  }
  memset(pool[pool_used], 0, 4096);
  return pool[pool_used++];
}

uint64_t* entry_for(word address, int level) {
  uint64_t* table = pml4;
  for (int at = 4;; --at) {
    uint64_t* entry = &table[(address >> (12 + 9 * (at - 1))) & 511];
    if (at == level) return entry;
    if (!(*entry & PTE_P)) *entry = (word)allocate_page() | PTE_P | PTE_W | PTE_U;
    table = (uint64_t*)(*entry & PTE_ADDRESS);
  }
}

void map(word address, uint64_t physical, uint64_t flags, int level) {
  *entry_for(address, level) = physical | flags | (level > 1 ? PTE_PS : 0);
  invlpg(address);
}
