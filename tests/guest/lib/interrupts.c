// SPDX-License-Identifier: Apache-2.0
// The 8259 pair.
#include "guest.h"

enum { kMasterCommand = 0x20, kMasterData = 0x21, kSlaveCommand = 0xa0, kSlaveData = 0xa1, kEoi = 0x20 };

void pic_init(uint8_t master_mask, uint8_t slave_mask) {
  outb(kMasterCommand, 0x11);
  outb(kSlaveCommand, 0x11);
  outb(kMasterData, 0x20);
  outb(kSlaveData, 0x28);
  outb(kMasterData, 4);
  outb(kSlaveData, 2);
  outb(kMasterData, 1);
  outb(kSlaveData, 1);
  outb(kMasterData, master_mask);
  outb(kSlaveData, slave_mask);
}

void pic_eoi(unsigned irq) {
  if (irq >= 8) outb(kSlaveCommand, kEoi);
  outb(kMasterCommand, kEoi);
}
