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
//
// No lock of the router is held while a sink is called: a sink may call back in (an IOAPIC re-delivers at EOI, a
// PIC raises INTR) and takes its own lock. Changes of one GSI still reach the sinks one after the other and in
// order: the thread that finds nobody delivering the line delivers, and goes on while others add changes to it.
// So set_gsi() may return before the sinks have seen the change, if another thread is delivering this line.
class IrqRouter {
 public:
  void connect_gsi_sink(GsiSink* sink) { gsi_sinks_.push_back(sink); }
  void connect_msi_sink(MsiSink* sink) { msi_sink_ = sink; }
  void connect_eoi_listener(EoiListener* listener) { eoi_listeners_.push_back(listener); }
  void connect_ext_int_source(ExtIntSource* source) { ext_int_source_ = source; }
  void connect_ext_int_sink(ExtIntSink* sink) { ext_int_sinks_.push_back(sink); }

  // Level of a GSI line, for a line's only plain driver. Several drivers of one line each hold their own IrqLine
  // (wired-OR, together with the plain driver). GSIs beyond the last are ignored.
  void set_gsi(unsigned gsi, bool level);
  // The level of the line as its drivers have it.
  bool gsi_level(unsigned gsi) const;
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
  struct Line {
    int asserted = 0;          // drivers that hold the line up
    bool plain_level = false;  // of set_gsi()
    bool told_level = false;   // what the sinks were last told
    bool delivering = false;   // a thread is in deliver() for this line
    unsigned changes = 0;      // edges the sinks have not been told yet
  };
  void change_level_locked(Line& line, int delta);
  void deliver(unsigned gsi);

  mutable std::mutex mutex_;  // protects lines_ only
  std::array<Line, kGsiCount> lines_{};
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
  void pulse() {
    set(true);
    set(false);
  }
  bool level() const { return level_; }
  unsigned gsi() const { return gsi_; }
  bool connected() const { return router_ != nullptr; }

 private:
  IrqRouter* router_ = nullptr;
  unsigned gsi_ = 0;
  bool level_ = false;
};

}  // namespace rhea::io
