// SPDX-License-Identifier: Apache-2.0
// Triple fault: the guest dies; Rhea says so and exits with status 3.
#include "guest.h"

void guest_main(void);

void guest_main(void) {
  check("about-to-die", true);
  print("1 passed, 0 failed, 0 skipped\n");
  load_idt_limit(0);
  __asm__ volatile("ud2");
  check("alive-after-triple-fault", false);
}
