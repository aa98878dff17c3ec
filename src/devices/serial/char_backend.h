// SPDX-License-Identifier: Apache-2.0
// Between a character device (UART, console) and whatever stands behind it on the host.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

namespace rhea::devices {

// The device's side. Called by the backend on any one thread at a time.
class CharReceiver {
 public:
  virtual ~CharReceiver() = default;
  virtual size_t receive_capacity() const = 0;                  // bytes that receive() would take now
  virtual size_t receive(std::span<const std::byte> data) = 0;  // returns how many were taken, from the front
  virtual void receive_break() {}
};

// The host's side. A backend that was refused bytes keeps them and waits for on_receive_ready().
class CharBackend {
 public:
  virtual ~CharBackend() = default;
  // Bytes the guest sent, in order. vCPU thread, under no lock of the backend's caller that receive() takes;
  // must not block for long and must not call back into the receiver.
  virtual void write(std::span<const std::byte> data) = 0;
  virtual void set_receiver(CharReceiver* receiver) = 0;  // nullptr: none; waits for a running receive()
  // The device can take bytes again. vCPU thread; must not call back into the receiver, only wake the thread
  // that does.
  virtual void on_receive_ready() = 0;
};

}  // namespace rhea::devices
