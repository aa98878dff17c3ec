// SPDX-License-Identifier: Apache-2.0
// One gdb connection: bytes in, bytes out, commands to the DebugTarget. Knows no sockets.
//
// All-stop mode. While the VM runs only an interrupt (0x03) is looked at; packets wait until it has stopped.
// Threads: the event loop's.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "debug/debug_target.h"
#include "debug/packet.h"

namespace rhea::debug {

class Session {
 public:
  // Asks the target to stop, as gdb expects of a connection.
  explicit Session(DebugTarget& target);
  // Removes its breakpoints; the VM runs on unless the guest is dead or was killed.
  void close();
  // After close(): on_stopped() must still be called, to let the VM run on.
  bool waits_for_stop() const { return finished_ && !killed_ && run_state_ == RunState::kStopping; }

  // Bytes from the peer. Takes them all or, while there is too much to do, a part: returns how many.
  size_t receive(std::span<const uint8_t> bytes);
  // Handles what could not be handled before. Call after on_stopped() and after output was taken.
  void process();

  void on_stopped(const StopEvent& event);

  // Bytes for the peer; take_output(n) removes n of them.
  std::string_view output() const { return output_; }
  void take_output(size_t count) { output_.erase(0, count); }

  bool finished() const { return finished_; }  // detached or killed: close the connection once output is sent

 private:
  enum class RunState { kStopping, kStopped, kRunning };
  static constexpr size_t kMaxPendingOutput = 4 * kMaxPacketBytes;
  static constexpr size_t kMaxPendingInput = 4 * kMaxPacketBytes;

  void handle(std::string_view packet);
  // nullopt: the reply comes when the VM stops.
  std::optional<std::string> reply_to(std::string_view packet);
  void send(std::string payload);

  std::string query(std::string_view text);
  std::string features_xfer(std::string_view text);
  std::string select_thread(std::string_view text);
  std::string read_registers();
  std::string write_registers(std::string_view text);
  std::string read_one_register(std::string_view text);
  std::string write_one_register(std::string_view text);
  std::string read_memory(std::string_view text);
  std::string write_memory(std::string_view text, bool binary);
  std::string change_breakpoint(std::string_view text, bool insert);
  std::optional<std::string> resume_command(std::string_view text, bool step);
  std::optional<std::string> vcont(std::string_view text);
  std::string monitor(std::string_view text) const;
  std::string stop_reply() const;

  std::optional<std::string> start(bool step, unsigned vcpu);
  void update_breakpoints();
  bool transfer(uint64_t address, std::span<uint8_t> out, std::span<const uint8_t> in, size_t& done);
  bool parse_thread(std::string_view& text, unsigned& vcpu) const;

  DebugTarget& target_;
  PacketParser parser_;
  std::string input_;
  std::string output_;
  std::string last_reply_;  // for a '-'
  RunState run_state_ = RunState::kStopping;
  bool reply_on_stop_ = false;
  bool no_ack_ = false;
  bool finished_ = false;
  bool killed_ = false;
  bool peer_knows_swbreak_ = false;
  bool peer_knows_hwbreak_ = false;
  unsigned general_vcpu_ = 0;   // Hg
  unsigned continue_vcpu_ = 0;  // Hc
  StopEvent last_stop_;
  std::set<uint64_t> software_breakpoints_, hardware_breakpoints_;
};

}  // namespace rhea::debug
