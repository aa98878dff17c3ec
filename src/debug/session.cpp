// SPDX-License-Identifier: Apache-2.0
// Commands of the GDB remote protocol. Spec: "Debugging with GDB", appendix E.
//
// Not implemented: non-stop mode, watchpoints, multiprocess ids, reverse execution, file transfer. Unknown packets are
// answered with an empty reply, which is how gdb learns what there is.
#include "debug/session.h"

#include <fmt/format.h>

#include <algorithm>

#include "debug/registers.h"

namespace rhea::debug {

namespace {

constexpr size_t kMaxBreakpoints = 4096;
constexpr const char* kMalformed = "E01";
constexpr const char* kBadAddress = "E14";  // EFAULT
constexpr const char* kTooMany = "E1c";     // ENOSPC
constexpr const char* kOk = "OK";
constexpr unsigned kSigint = 2, kSigtrap = 5, kSigsegv = 11;

std::span<const uint8_t> as_bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace

Session::Session(DebugTarget& target) : target_(target) { target_.stop(); }

void Session::close() {
  if (killed_) return;
  bool had_breakpoints = !software_breakpoints_.empty() || !hardware_breakpoints_.empty();
  software_breakpoints_.clear();
  hardware_breakpoints_.clear();
  finished_ = true;
  if (run_state_ == RunState::kStopped) {
    update_breakpoints();
    start(false, 0);
  } else if (run_state_ == RunState::kRunning && had_breakpoints) {
    // Nothing may be changed while vCPUs execute: on_stopped() goes on. Without breakpoints of ours the VM is left
    // alone.
    run_state_ = RunState::kStopping;
    target_.stop();
  }
}

size_t Session::receive(std::span<const uint8_t> bytes) {
  size_t room = input_.size() < kMaxPendingInput ? kMaxPendingInput - input_.size() : 0;
  size_t count = std::min(room, bytes.size());
  input_.append(reinterpret_cast<const char*>(bytes.data()), count);
  process();
  return count;
}

void Session::process() {
  while (!input_.empty() && !finished_) {
    if (run_state_ != RunState::kStopped) {
      // Acknowledgements of what was sent before the VM ran, and the interrupt; packets wait.
      char first = input_.front();
      if (first == '$') return;
      input_.erase(0, 1);
      if (first == 0x03 && run_state_ == RunState::kRunning) {
        run_state_ = RunState::kStopping;
        target_.stop();
      }
      continue;
    }
    if (output_.size() >= kMaxPendingOutput) return;
    std::span<const uint8_t> rest = as_bytes(input_);
    auto event = parser_.next(rest);
    input_.erase(0, input_.size() - rest.size());
    if (!event) return;
    switch (event->kind) {
      case ParserEvent::Kind::kAck: break;
      case ParserEvent::Kind::kNak:
        if (!no_ack_) output_ += last_reply_;
        break;
      case ParserEvent::Kind::kInterrupt:
        // Already stopped: gdb still waits for an answer only if it thinks that the VM runs, which it does not.
        break;
      case ParserEvent::Kind::kBadPacket:
        if (!no_ack_) output_ += '-';
        break;
      case ParserEvent::Kind::kPacket:
        if (!no_ack_) output_ += '+';
        handle(event->payload);
        break;
    }
  }
}

void Session::send(std::string payload) {
  last_reply_ = frame_packet(payload);
  output_ += last_reply_;
}

void Session::on_stopped(const StopEvent& event) {
  if (killed_) return;
  run_state_ = RunState::kStopped;
  last_stop_ = event;
  if (last_stop_.vcpu >= target_.vcpu_count()) last_stop_.vcpu = 0;
  if (finished_) {  // closed while it ran
    update_breakpoints();
    start(false, 0);
    return;
  }
  general_vcpu_ = continue_vcpu_ = last_stop_.vcpu;
  if (reply_on_stop_) {
    reply_on_stop_ = false;
    send(stop_reply());
  }
  process();
}

void Session::handle(std::string_view packet) {
  // The state of the acknowledgements changes after the reply to this packet.
  if (packet == "QStartNoAckMode") {
    send(kOk);
    no_ack_ = true;
    return;
  }
  if (packet == "k" || packet.starts_with("vKill")) {
    if (packet != "k") send(kOk);
    killed_ = finished_ = true;
    target_.kill();
    return;
  }
  if (packet.starts_with("D")) {
    send(kOk);
    close();
    return;
  }
  // Nothing to say while the VM runs: the reply comes when it stops.
  if (auto reply = reply_to(packet)) send(std::move(*reply));
}

std::optional<std::string> Session::reply_to(std::string_view packet) {
  const std::string unsupported;
  if (packet.empty()) return unsupported;
  const char command = packet.front();
  std::string_view rest = packet.substr(1);
  switch (command) {
    case '?': return stop_reply();
    case '!': return kOk;
    case 'H': return select_thread(rest);
    case 'T': {
      unsigned vcpu;
      return parse_thread(rest, vcpu) && rest.empty() ? std::string(kOk) : std::string(kMalformed);
    }
    case 'g': return read_registers();
    case 'G': return write_registers(rest);
    case 'p': return read_one_register(rest);
    case 'P': return write_one_register(rest);
    case 'm': return read_memory(rest);
    case 'M': return write_memory(rest, false);
    case 'X': return write_memory(rest, true);
    case 'Z': return change_breakpoint(rest, true);
    case 'z': return change_breakpoint(rest, false);
    case 'c': return resume_command(rest, false);
    case 's': return resume_command(rest, true);
    case 'C':
    case 'S':  // with a signal, which a machine has no use for: "C05;addr"
      take_hex(rest);
      take_prefix(rest, ";");
      return resume_command(rest, command == 'S');
    case 'v':
      if (rest == "Cont?") return "vCont;c;C;s;S;t";
      if (take_prefix(rest, "Cont;")) return vcont(rest);
      return unsupported;
    case 'q':
    case 'Q': return query(packet);
    default: return unsupported;
  }
}

std::string Session::query(std::string_view text) {
  if (text.starts_with("qSupported")) {
    peer_knows_swbreak_ = text.find("swbreak+") != text.npos;
    peer_knows_hwbreak_ = text.find("hwbreak+") != text.npos;
    return fmt::format("PacketSize={:x};qXfer:features:read+;QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+",
                       kMaxPacketBytes);
  }
  if (take_prefix(text, "qXfer:features:read:")) return features_xfer(text);
  if (text == "qC") return fmt::format("QC{:x}", general_vcpu_ + 1);
  if (text == "qAttached") return "1";
  if (text == "qfThreadInfo") {
    std::string reply = "m";
    for (unsigned i = 0; i < target_.vcpu_count(); ++i) reply += fmt::format("{}{:x}", i ? "," : "", i + 1);
    return reply;
  }
  if (text == "qsThreadInfo") return "l";
  if (take_prefix(text, "qThreadExtraInfo,")) {
    unsigned vcpu;
    if (!parse_thread(text, vcpu)) return kMalformed;
    cpu::CpuState state;
    target_.vcpu(vcpu).get_state(state);
    return to_hex(as_bytes(fmt::format("vCPU {}{}", vcpu, state.halted ? ", halted" : "")));
  }
  if (text.starts_with("qSymbol")) return kOk;
  if (take_prefix(text, "qRcmd,")) return monitor(text);
  return {};
}

// "target.xml:offset,length"
std::string Session::features_xfer(std::string_view text) {
  if (!take_prefix(text, "target.xml:")) return "E00";
  auto offset = take_hex(text);
  if (!offset || !take_prefix(text, ",")) return kMalformed;
  auto length = take_hex(text);
  if (!length) return kMalformed;
  const std::string& xml = target_description();
  if (*offset >= xml.size()) return "l";
  // Escaping can double what is sent.
  uint64_t count = std::min({*length, xml.size() - *offset, uint64_t{kMaxPacketBytes / 2 - 1}});
  bool last = *offset + count == xml.size();
  return (last ? "l" : "m") + escape_binary(std::string_view(xml).substr(*offset, count));
}

// A thread id: vCPU index + 1; 0 and -1 mean any.
bool Session::parse_thread(std::string_view& text, unsigned& vcpu) const {
  vcpu = 0;
  if (take_prefix(text, "-1")) return true;
  auto id = take_hex(text);
  if (!id || *id > target_.vcpu_count()) return false;
  vcpu = *id == 0 ? general_vcpu_ : static_cast<unsigned>(*id - 1);
  return true;
}

std::string Session::select_thread(std::string_view text) {
  if (text.empty() || (text[0] != 'g' && text[0] != 'c')) return kMalformed;
  bool general = text[0] == 'g';
  text.remove_prefix(1);
  unsigned vcpu;
  if (!parse_thread(text, vcpu) || !text.empty()) return kMalformed;
  (general ? general_vcpu_ : continue_vcpu_) = vcpu;
  return kOk;
}

std::string Session::read_registers() {
  cpu::CpuState state;
  target_.vcpu(general_vcpu_).get_state(state);
  std::string reply;
  for (unsigned i = 0; i < register_count(); ++i) reply += to_hex(read_register(state, i));
  return reply;
}

std::string Session::write_registers(std::string_view text) {
  auto bytes = from_hex(text);
  if (!bytes) return kMalformed;
  cpu::CpuState state;
  target_.vcpu(general_vcpu_).get_state(state);
  std::span<const uint8_t> rest = *bytes;
  for (unsigned i = 0; i < register_count(); ++i) {
    unsigned size = register_bytes(i);
    if (rest.size() < size) return kMalformed;
    // What cannot be changed comes back as it was, or is gdb's mistake: the others are still written.
    (void)write_register(state, i, rest.first(size));
    rest = rest.subspan(size);
  }
  target_.vcpu(general_vcpu_).set_state(state);
  return kOk;
}

std::string Session::read_one_register(std::string_view text) {
  auto number = take_hex(text);
  if (!number || *number >= register_count()) return kMalformed;
  cpu::CpuState state;
  target_.vcpu(general_vcpu_).get_state(state);
  return to_hex(read_register(state, static_cast<unsigned>(*number)));
}

std::string Session::write_one_register(std::string_view text) {
  auto number = take_hex(text);
  if (!number || *number >= register_count() || !take_prefix(text, "=")) return kMalformed;
  auto bytes = from_hex(text);
  if (!bytes || bytes->size() != register_bytes(static_cast<unsigned>(*number))) return kMalformed;
  cpu::CpuState state;
  target_.vcpu(general_vcpu_).get_state(state);
  if (!write_register(state, static_cast<unsigned>(*number), *bytes)) return kMalformed;
  target_.vcpu(general_vcpu_).set_state(state);
  return kOk;
}

// Copies page by page between guest-virtual memory and `out` or from `in` (the other is empty). RAM only: a debugger
// that touched device registers would change the machine. `done`: bytes transferred before the first hole.
bool Session::transfer(uint64_t address, std::span<uint8_t> out, std::span<const uint8_t> in, size_t& done) {
  const size_t size = out.empty() ? in.size() : out.size();
  done = 0;
  while (done < size) {
    uint64_t linear = address + done;
    size_t count = std::min<uint64_t>(size - done, memory::kPageSize - linear % memory::kPageSize);
    uint64_t physical = 0;
    if (!target_.vcpu(general_vcpu_).translate_for_debug(linear, physical)) return false;
    memory::GuestMemory& memory = target_.memory();
    bool ok = out.empty() ? memory.write({physical}, std::as_bytes(in.subspan(done, count)))
                          : memory.read({physical}, std::as_writable_bytes(out.subspan(done, count)));
    if (!ok) return false;
    done += count;
  }
  return true;
}

// "addr,length": as many bytes as there are before the first hole.
std::string Session::read_memory(std::string_view text) {
  auto address = take_hex(text);
  if (!address || !take_prefix(text, ",")) return kMalformed;
  auto length = take_hex(text);
  if (!length || !text.empty()) return kMalformed;
  std::vector<uint8_t> bytes(std::min<uint64_t>(*length, kMaxPacketBytes / 2));
  size_t done = 0;
  if (!transfer(*address, bytes, {}, done) && done == 0) return kBadAddress;
  bytes.resize(done);
  return to_hex(bytes);
}

// "addr,length:data"; X has the data in binary.
std::string Session::write_memory(std::string_view text, bool binary) {
  auto address = take_hex(text);
  if (!address || !take_prefix(text, ",")) return kMalformed;
  auto length = take_hex(text);
  if (!length || !take_prefix(text, ":")) return kMalformed;
  std::vector<uint8_t> decoded;
  std::span<const uint8_t> data = as_bytes(text);
  if (!binary) {
    auto bytes = from_hex(text);
    if (!bytes) return kMalformed;
    decoded = std::move(*bytes);
    data = decoded;
  }
  if (data.size() != *length) return kMalformed;
  size_t done = 0;
  return data.empty() || transfer(*address, {}, data, done) ? kOk : kBadAddress;
}

// "type,addr,kind": 0 software and 1 hardware breakpoint; both are the engine's, which patches no guest memory.
std::string Session::change_breakpoint(std::string_view text, bool insert) {
  auto type = take_hex(text);
  if (!type || !take_prefix(text, ",")) return kMalformed;
  if (*type > 1) return {};
  auto address = take_hex(text);
  if (!address) return kMalformed;
  auto& set = *type == 0 ? software_breakpoints_ : hardware_breakpoints_;
  if (insert && set.size() >= kMaxBreakpoints) return kTooMany;
  if (insert)
    set.insert(*address);
  else
    set.erase(*address);
  update_breakpoints();
  return kOk;
}

void Session::update_breakpoints() {
  std::vector<uint64_t> all;
  std::ranges::set_union(software_breakpoints_, hardware_breakpoints_, std::back_inserter(all));
  for (unsigned i = 0; i < target_.vcpu_count(); ++i) target_.vcpu(i).set_breakpoints(all);
}

std::optional<std::string> Session::start(bool step, unsigned vcpu) {
  // A dead guest does not run any more; gdb hears so again.
  if (last_stop_.reason == StopEvent::Reason::kShutdown) return stop_reply();
  run_state_ = RunState::kRunning;
  reply_on_stop_ = !finished_;
  if (step)
    target_.step(vcpu);
  else
    target_.resume();
  return std::nullopt;
}

// "[addr]"
std::optional<std::string> Session::resume_command(std::string_view text, bool step) {
  if (!text.empty()) {
    auto address = take_hex(text);
    if (!address || !text.empty()) return kMalformed;
    cpu::CpuState state;
    cpu::Vcpu& vcpu = target_.vcpu(continue_vcpu_);
    vcpu.get_state(state);
    if (!set_rip(state, *address)) return kMalformed;
    vcpu.set_state(state);
  }
  return start(step, continue_vcpu_);
}

// "action[:thread];...". If any thread is to be stepped only that one runs: a step that let the others run on would
// take an unbounded time on a machine.
std::optional<std::string> Session::vcont(std::string_view text) {
  bool resume = false;
  while (!text.empty()) {
    std::string_view action = text.substr(0, text.find(';'));
    text.remove_prefix(std::min(text.size(), action.size() + 1));
    if (action.empty()) return kMalformed;
    const char verb = action.front();
    action.remove_prefix(1);
    if (verb == 'C' || verb == 'S') take_hex(action);  // a signal
    unsigned vcpu = continue_vcpu_;
    if (take_prefix(action, ":") && !parse_thread(action, vcpu)) return kMalformed;
    if (!action.empty()) return kMalformed;
    if (verb == 's' || verb == 'S') return start(true, vcpu);
    if (verb == 'c' || verb == 'C') resume = true;
  }
  return resume ? start(false, 0) : kMalformed;
}

std::string Session::stop_reply() const {
  unsigned signal = kSigtrap;
  if (last_stop_.reason == StopEvent::Reason::kInterrupted) signal = kSigint;
  if (last_stop_.reason == StopEvent::Reason::kShutdown) signal = kSigsegv;
  std::string reply = fmt::format("T{:02x}thread:{:x};", signal, last_stop_.vcpu + 1);
  if (last_stop_.reason != StopEvent::Reason::kDebug) return reply;
  // gdb would otherwise take the address for that after an INT3 byte.
  cpu::CpuState state;
  target_.vcpu(last_stop_.vcpu).get_state(state);
  uint64_t linear = state.code64() ? state.rip : (state.segment[cpu::kCs].base + state.rip) & 0xffffffff;
  if (peer_knows_swbreak_ && software_breakpoints_.contains(linear)) reply += "swbreak:;";
  if (peer_knows_hwbreak_ && hardware_breakpoints_.contains(linear)) reply += "hwbreak:;";
  return reply;
}

// "monitor TEXT", in hexadecimal.
std::string Session::monitor(std::string_view text) const {
  auto decoded = from_hex(text);
  if (!decoded) return kMalformed;
  std::string command(decoded->begin(), decoded->end());
  std::string answer = "commands: stats\n";
  if (command == "stats") answer = target_.vcpu(general_vcpu_).statistics();
  return to_hex(as_bytes(std::string_view(answer).substr(0, kMaxPacketBytes / 2 - 1)));
}

}  // namespace rhea::debug
