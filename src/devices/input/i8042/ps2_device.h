// SPDX-License-Identifier: Apache-2.0
// The two devices behind the keyboard controller: they acknowledge commands and queue answers and events.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/error.h"

namespace rhea::state {
class StateWriter;
class StateReader;
}  // namespace rhea::state

namespace rhea::devices {

// Bytes on their way from a PS/2 device to the controller. What does not fit is dropped whole.
class Ps2Queue {
 public:
  static constexpr size_t kCapacity = 64;
  bool push(std::span<const uint8_t> bytes);
  bool push(uint8_t byte) { return push(std::span(&byte, 1)); }
  std::optional<uint8_t> pop();
  bool empty() const { return count_ == 0; }
  void clear() { head_ = count_ = 0; }
  void save(state::StateWriter& writer) const;
  Status load(state::StateReader& reader);

 private:
  std::array<uint8_t, kCapacity> bytes_{};
  size_t head_ = 0, count_ = 0;
};

class Ps2Keyboard {
 public:
  void reset();
  void write(uint8_t value);                     // a byte from the controller
  void key(std::span<const uint8_t> scan_code);  // set 2 make or break sequence
  Ps2Queue& queue() { return queue_; }
  const Ps2Queue& queue() const { return queue_; }
  uint8_t leds() const { return leds_; }
  void save(state::StateWriter& writer) const;
  Status load(state::StateReader& reader);

 private:
  void set_defaults();
  Ps2Queue queue_;
  uint8_t pending_command_ = 0;  // waits for its argument
  uint8_t leds_ = 0, scan_set_ = 2, rate_ = 0x2b, last_sent_ = 0;
  bool scanning_ = true;
};

class Ps2Mouse {
 public:
  void reset();
  void write(uint8_t value);
  // Movement since the last call (right and up positive), wheel (down positive) and buttons (left, right, middle).
  void move(int dx, int dy, int dz, uint8_t buttons);
  Ps2Queue& queue() { return queue_; }
  const Ps2Queue& queue() const { return queue_; }
  void save(state::StateWriter& writer) const;
  Status load(state::StateReader& reader);

 private:
  void set_defaults();
  void send_packet();
  Ps2Queue queue_;
  uint8_t pending_command_ = 0;
  uint8_t rate_ = 100, resolution_ = 2, buttons_ = 0;
  uint8_t device_id_ = 0;           // 3 after the wheel knock
  std::array<uint8_t, 3> knock_{};  // last three sample rates
  bool reporting_ = false, scaling_ = false, remote_ = false, wrap_ = false;
  int dx_ = 0, dy_ = 0, dz_ = 0;
};

}  // namespace rhea::devices
