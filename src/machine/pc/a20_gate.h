// SPDX-License-Identifier: Apache-2.0
// The A20 gate: address line 20 of the processors, which two devices may hold at zero.
//
// The line is driven as addresses say while either input is set: the fast A20 bit of port 0x92 or the keyboard
// controller's output port. [ICH9 5.13.1.1, A20M#] A reset of the machine leaves both set, as a firmware hands over to
// what it loads. DMA does not pass the gate. Threads: any.
#pragma once

#include <cstdint>
#include <mutex>

#include "io/address_space.h"

namespace rhea::machine {

class A20Gate {
 public:
  enum Input : uint8_t { kPort92, kKeyboardController, kInputCount };

  explicit A20Gate(io::AddressSpace& physical) : physical_(physical) {}

  void set(Input input, bool level) {
    constexpr uint64_t kLine = uint64_t{1} << 20;
    const std::lock_guard lock(mutex_);
    inputs_[input] = level;
    physical_.set_address_mask(inputs_[kPort92] || inputs_[kKeyboardController] ? ~uint64_t{0} : ~kLine);
  }

 private:
  io::AddressSpace& physical_;
  std::mutex mutex_;
  bool inputs_[kInputCount] = {true, true};
};

}  // namespace rhea::machine
