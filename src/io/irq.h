// SPDX-License-Identifier: Apache-2.0
// Interrupt routing: GSI lines, message-signalled interrupts, EOI broadcast, ExtINT acknowledge.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

namespace rhea::io {

inline constexpr unsigned kGsiCount = 24;  // one IOAPIC; GSIs 0-15 also reach the 8259 pair

// An MSI as it goes over the bus. [SDM-3A 11.11]
struct MsiMessage {
  uint64_t address = 0;
  uint32_t data = 0;
};

class GsiSink {  // an interrupt controller's inputs
 public:
  virtual ~GsiSink() = default;
  virtual void set_gsi(unsigned gsi, bool level) = 0;
};

class MsiSink {  // the local APICs' bus
 public:
  virtual ~MsiSink() = default;
  virtual void deliver_msi(const MsiMessage& message) = 0;
};

class EoiListener {  // an IOAPIC hears EOIs of level-triggered vectors
 public:
  virtual ~EoiListener() = default;
  virtual void on_eoi(uint8_t vector) = 0;
};

class ExtIntSource {  // the 8259 pair
 public:
  virtual ~ExtIntSource() = default;
  virtual bool ext_int_pending() const = 0;
  // INTA cycle: the vector to deliver (a spurious one if nothing is pending any more).
  virtual uint8_t acknowledge_ext_int() = 0;
};

// The INTR pin from the 8259 pair to the local APICs (LINT0 of the boot processor).
class ExtIntSink {
 public:
  virtual ~ExtIntSink() = default;
  virtual void set_ext_int(bool level) = 0;
};

// Owned by machine. Connections are made before the VM runs; calls after that come from any thread.
class IrqRouter {
 public:
  void connect_gsi_sink(GsiSink* sink) { gsi_sinks_.push_back(sink); }
  void connect_msi_sink(MsiSink* sink) { msi_sink_ = sink; }
  void connect_eoi_listener(EoiListener* listener) { eoi_listeners_.push_back(listener); }
  void connect_ext_int_source(ExtIntSource* source) { ext_int_source_ = source; }
  void connect_ext_int_sink(ExtIntSink* sink) { ext_int_sinks_.push_back(sink); }

  // Level of a GSI line. Several drivers of one line each hold their own IrqLine (wired-OR).
  void set_gsi(unsigned gsi, bool level);
  void send_msi(const MsiMessage& message);
  void broadcast_eoi(uint8_t vector);
  void set_ext_int(bool level);
  bool ext_int_pending() const;
  uint8_t acknowledge_ext_int();

 private:
  friend class IrqLine;
  void change_level(unsigned gsi, int delta);

  std::vector<GsiSink*> gsi_sinks_;
  MsiSink* msi_sink_ = nullptr;
  std::vector<EoiListener*> eoi_listeners_;
  ExtIntSource* ext_int_source_ = nullptr;
  std::vector<ExtIntSink*> ext_int_sinks_;
  std::mutex mutex_;
  std::array<int, kGsiCount> asserted_{};
};

// One driver of one GSI line. set() is idempotent; any thread, serialised by the device.
class IrqLine {
 public:
  IrqLine() = default;
  IrqLine(IrqRouter* router, unsigned gsi) : router_(router), gsi_(gsi) {}
  void set(bool level) {
    if (level == level_) return;
    level_ = level;
    if (router_) router_->change_level(gsi_, level ? 1 : -1);
  }
  void pulse() { set(true); set(false); }
  bool level() const { return level_; }
  unsigned gsi() const { return gsi_; }

 private:
  IrqRouter* router_ = nullptr;
  unsigned gsi_ = 0;
  bool level_ = false;
};

}  // namespace rhea::io
