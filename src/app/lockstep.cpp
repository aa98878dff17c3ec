// SPDX-License-Identifier: Apache-2.0
// Two machines in step: running, feeding, comparing, narrowing down, reporting.
#include "app/lockstep.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>

#include "app/engines.h"
#include "app/state_difference.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/log.h"
#include "devices/serial/char_backend.h"
#include "io/instruction_clock.h"
#include "isa/x86/disasm.h"
#include "isa/x86/insn.h"
#include "machine/pc/cpu_dump.h"
#include "state/state_writer.h"

namespace rhea::app {
namespace {

using machine::Machine;
using machine::MachineExit;

constexpr uint64_t kRamSliceBytes = uint64_t{1} << 20;  // compared after every interval
constexpr uint64_t kFullCheckIntervals = 4096;          // between two comparisons of everything
constexpr uint64_t kFineStep = 128;  // longer than any block, so that whole blocks still run as they were translated
constexpr size_t kShownDifferences = 24;

// Counts and hashes what the guest prints; passes it on if it is the one to be seen.
class Serial final : public devices::CharBackend {
 public:
  explicit Serial(int output_fd) : output_fd_(output_fd) {}
  void write(std::span<const std::byte> data) override {
    for (const std::byte byte : data) hash_ = (hash_ ^ static_cast<uint64_t>(byte)) * 0x100000001b3;
    written_ += data.size();
    if (output_fd_ >= 0) [[maybe_unused]]
      Status done = base::write_all(output_fd_, data);
  }
  void set_receiver(devices::CharReceiver* receiver) override { receiver_ = receiver; }
  void on_receive_ready() override {}

  size_t capacity() const { return receiver_ ? receiver_->receive_capacity() : 0; }
  void feed(std::span<const std::byte> data) {
    if (receiver_) receiver_->receive(data);
  }
  uint64_t written() const { return written_; }
  uint64_t hash() const { return hash_; }

 private:
  int output_fd_;
  devices::CharReceiver* receiver_ = nullptr;
  uint64_t written_ = 0, hash_ = 0xcbf29ce484222325;
};

// One machine with all that it stands on.
struct Side {
  std::unique_ptr<base::EventLoop> loop;
  base::Log log;
  std::unique_ptr<Serial> serial;
  io::InstructionClock* clock = nullptr;  // the machine's
  std::unique_ptr<Machine> machine;
  cpu::CpuState state;

  void read_state() { machine->vcpu(0).get_state(state); }
  std::vector<std::byte> devices() const {
    state::StateWriter writer;
    machine->save_state(writer);
    return std::move(writer).finish();
  }
};

Result<std::unique_ptr<Side>> create_side(RunOptions options, int dbt_opt, int output_fd) {
  options.dbt_opt = dbt_opt;
  options.clock = ClockKind::kInstructions;
  if (dbt_opt == 0) options.dbt_perf_map.clear();
  auto side = std::make_unique<Side>();
  side->loop = RHEA_TRY(base::EventLoop::create());
  side->serial = std::make_unique<Serial>(output_fd);
  auto clock = std::make_unique<io::InstructionClock>();
  side->clock = clock.get();
  cpu::CpuModel model = RHEA_TRY(cpu::CpuModel::create(
      {.name = options.cpu_model, .tsc_frequency_hz = clock->tsc_frequency_hz(), .cpu_count = options.cpu_count}));
  EngineChoice engine = RHEA_TRY(select_engine(options));
  Machine::Options machine_options = machine_options_of(options);
  machine_options.board.serial[0] = side->serial.get();
  side->machine = RHEA_TRY(Machine::create(std::move(machine_options), {.loop = *side->loop,
                                                                        .log = side->log,
                                                                        .clock = std::move(clock),
                                                                        .cpu_model = std::move(model),
                                                                        .create_engine = std::move(engine.factory)}));
  return side;
}

// Console input, remembered with the moment at which the guests got it, for the second pass.
struct Input {
  uint64_t instructions;
  std::vector<std::byte> data;
};

std::string describe_instruction(Machine& machine, const cpu::CpuState& state) {
  const uint64_t linear = state.code64() ? state.rip : (state.rip + state.segment[cpu::kCs].base) & 0xffffffff;
  uint8_t bytes[15] = {};
  unsigned count = 0;
  for (; count < sizeof bytes; ++count) {
    uint64_t physical = 0;
    std::byte byte{};
    if (!machine.vcpu(0).translate_for_debug(linear + count, physical) ||
        !machine.memory().read(memory::GuestPhysAddr{physical}, {&byte, 1}))
      break;
    bytes[count] = static_cast<uint8_t>(byte);
  }
  const auto mode = state.code64()                          ? isa::x86::CpuMode::k64
                    : state.segment[cpu::kCs].default_big() ? isa::x86::CpuMode::k32
                                                            : isa::x86::CpuMode::k16;
  isa::x86::Insn insn;
  if (isa::x86::decode({bytes, count}, mode, insn) != isa::x86::DecodeStatus::kOk)
    return fmt::format("{:016x}  {:02x}  (not decoded)", state.rip, fmt::join(bytes, bytes + count, " "));
  return fmt::format("{:016x}  {:<30}  {}", state.rip,
                     fmt::format("{:02x}", fmt::join(bytes, bytes + insn.length, " ")),
                     isa::x86::disassemble(insn, state.rip));
}

class Lockstep {
 public:
  explicit Lockstep(const RunOptions& options) : options_(options) {}
  Result<MachineExit> run();

 private:
  Status create(int output_fd);
  std::optional<MachineExit> step(uint64_t instructions);
  bool compare_processors();
  bool compare_ram(uint64_t start, uint64_t length);
  bool compare_slice();
  bool compare_devices();
  bool compare_everything();
  bool compare_known_pages();
  void take_input(bool idle);
  void feed_pending();
  void replay_input();
  Result<std::string> narrow_down(uint64_t from, uint64_t to);
  bool step_traced(uint64_t instructions);
  std::string report_place() const;
  std::string report_states() const;

  const RunOptions& options_;
  std::unique_ptr<Side> optimised_, reference_;
  std::vector<std::string> differences_;
  std::vector<std::string> trace_;
  std::vector<uint64_t> differing_pages_;  // as compare_ram() counts
  uint64_t fine_start_ = 0;
  uint64_t slice_ = 0;
  bool input_open_ = true;
  std::deque<std::byte> pending_;
  std::vector<Input> inputs_;
  size_t replayed_ = 0;
};

Status Lockstep::create(int output_fd) {
  optimised_.reset();
  reference_.reset();
  optimised_ = RHEA_TRY(create_side(options_, 1, output_fd));
  reference_ = RHEA_TRY(create_side(options_, 0, -1));
  return {};
}

// Both machines by at most `instructions`; the guest's end, if both have come to it.
std::optional<MachineExit> Lockstep::step(uint64_t instructions) {
  std::optional<MachineExit> left = optimised_->machine->run_slice(instructions);
  std::optional<MachineExit> right = reference_->machine->run_slice(instructions);
  if (left.has_value() == right.has_value() && (!left || left->kind == right->kind)) return left;
  differences_.push_back(fmt::format("the {} machine has ended (kind {}), the other goes on or ended otherwise",
                                     left ? "optimised" : "reference",
                                     static_cast<int>(left ? left->kind : right->kind)));
  return std::nullopt;
}

bool Lockstep::compare_processors() {
  optimised_->read_state();
  reference_->read_state();
  auto differences = state_differences(optimised_->state, reference_->state);
  differences_.insert(differences_.end(), differences.begin(), differences.end());
  const auto same = [this](std::string_view name, uint64_t left, uint64_t right) {
    if (left != right) differences_.push_back(fmt::format("{}: {} against {}", name, left, right));
  };
  same("instructions", optimised_->clock->instructions(), reference_->clock->instructions());
  same("time in ns", optimised_->clock->now_ns(), reference_->clock->now_ns());
  same("characters printed", optimised_->serial->written(), reference_->serial->written());
  same("hash of what was printed", optimised_->serial->hash(), reference_->serial->hash());
  return differences_.empty();
}

// `start` counts through all regions in turn.
bool Lockstep::compare_ram(uint64_t start, uint64_t length) {
  const auto left = optimised_->machine->memory().regions(), right = reference_->machine->memory().regions();
  uint64_t base = 0;
  for (size_t i = 0; i < left.size(); base += left[i].size_bytes, ++i) {
    const uint64_t first = std::max(start, base), end = std::min(start + length, base + left[i].size_bytes);
    for (uint64_t at = first; at < end; at += memory::kPageSize) {
      const uint64_t offset = at - base;
      if (std::memcmp(left[i].host + offset, right[i].host + offset, memory::kPageSize) == 0) continue;
      if (differing_pages_.size() < kShownDifferences &&
          std::ranges::find(differing_pages_, at) == differing_pages_.end())
        differing_pages_.push_back(at);
      for (uint64_t j = offset; j < offset + memory::kPageSize && differences_.size() < kShownDifferences; j += 8) {
        uint64_t a = 0, b = 0;
        std::memcpy(&a, left[i].host + j, 8);
        std::memcpy(&b, right[i].host + j, 8);
        if (a != b)
          differences_.push_back(fmt::format("RAM at {:#x}: {:016x} against {:016x}", left[i].start.value + j, a, b));
      }
    }
  }
  return differences_.empty();
}

bool Lockstep::compare_slice() {
  const uint64_t total = optimised_->machine->memory().total_bytes();
  const bool same = compare_ram(slice_, kRamSliceBytes);
  slice_ = slice_ + kRamSliceBytes >= total ? 0 : slice_ + kRamSliceBytes;
  return same;
}

// Devices and local APIC, which the saved state holds behind the processor. (The processor's own section is not for
// comparing: its XSAVE image may mark initial components either way.)
bool Lockstep::compare_devices() {
  const std::vector<std::byte> left = optimised_->devices(), right = reference_->devices();
  const auto name = std::as_bytes(std::span(std::string_view("lapic0")));
  const auto from = std::ranges::search(left, name).begin() - left.begin();
  if (left.size() == right.size() && std::equal(left.begin() + from, left.end(), right.begin() + from)) return true;
  const auto at =
      std::mismatch(left.begin() + from, left.end(), right.begin() + from, right.end()).first - left.begin();
  // The nearest names before the difference tell whose it is.
  std::string context;
  for (auto i = std::max<ptrdiff_t>(from, at - 160); i < at; ++i) {
    const auto character = static_cast<char>(left[static_cast<size_t>(i)]);
    context += character > ' ' && character < 127 ? character : ' ';
  }
  differences_.push_back(fmt::format("saved state of the devices differs at byte {} after \"{}\"", at, context));
  return false;
}

bool Lockstep::compare_everything() {
  return compare_ram(0, optimised_->machine->memory().total_bytes()) && compare_devices();
}

bool Lockstep::compare_known_pages() {
  for (const uint64_t page : std::vector(differing_pages_)) compare_ram(page, memory::kPageSize);
  return differences_.empty();
}

void Lockstep::take_input(bool idle) {
  if (input_open_ && pending_.empty()) {
    pollfd descriptor{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (poll(&descriptor, 1, idle ? 10 : 0) > 0) {
      std::byte buffer[256];
      const ssize_t count = read(STDIN_FILENO, buffer, sizeof buffer);
      if (count > 0)
        pending_.insert(pending_.end(), buffer, buffer + count);
      else
        input_open_ = false;
    }
  }
  feed_pending();
}

void Lockstep::feed_pending() {
  const size_t count = std::min({pending_.size(), optimised_->serial->capacity(), reference_->serial->capacity()});
  if (count == 0) return;
  std::vector<std::byte> data(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(count));
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(count));
  optimised_->serial->feed(data);
  reference_->serial->feed(data);
  inputs_.push_back({optimised_->clock->instructions(), std::move(data)});
}

void Lockstep::replay_input() {
  for (; replayed_ < inputs_.size() && inputs_[replayed_].instructions <= optimised_->clock->instructions();
       ++replayed_) {
    optimised_->serial->feed(inputs_[replayed_].data);
    reference_->serial->feed(inputs_[replayed_].data);
  }
}

std::string Lockstep::report_states() const {
  std::string text = "differences (optimised against reference):\n";
  for (size_t i = 0; i < std::min(differences_.size(), kShownDifferences); ++i) text += "  " + differences_[i] + "\n";
  if (differences_.size() > kShownDifferences)
    text += fmt::format("  ... and {} more\n", differences_.size() - kShownDifferences);
  text += "optimised:\n" + machine::dump_cpu_state(optimised_->state);
  text += "  next: " + describe_instruction(*optimised_->machine, optimised_->state) + "\n";
  text += "reference:\n" + machine::dump_cpu_state(reference_->state);
  text += "  next: " + describe_instruction(*reference_->machine, reference_->state) + "\n";
  return text;
}

// The machines differ somewhere between two counts: run fresh ones there, then look more closely.
Result<std::string> Lockstep::narrow_down(uint64_t from, uint64_t to) {
  const std::string first_report = report_states();
  differences_.clear();
  replayed_ = 0;
  RHEA_TRY(create(-1));
  const auto count = [this] { return optimised_->clock->instructions(); };
  while (count() < from && differences_.empty()) {
    replay_input();
    if (step(options_.dbt_verify)) break;
  }
  while (to - from > options_.dbt_verify && count() < to && differences_.empty()) {
    replay_input();
    const uint64_t start = count();
    const bool end = step(options_.dbt_verify).has_value();
    if (!compare_processors() || !compare_known_pages()) return narrow_down(start, count());
    if (end) break;
  }
  while (count() < to && differences_.empty()) {
    replay_input();
    if (step_traced(std::min(kFineStep, to - count()))) return report_place();
  }
  return first_report + "(a second run in smaller steps did not show it again)\n";
}

// A short step, every instruction of the reference machine written down. True if the machines then differ.
bool Lockstep::step_traced(uint64_t instructions) {
  fine_start_ = optimised_->clock->instructions();
  optimised_->machine->run_slice(instructions);
  trace_.clear();
  for (uint64_t i = 0; i < instructions && reference_->clock->instructions() < optimised_->clock->instructions(); ++i) {
    reference_->read_state();
    trace_.push_back(describe_instruction(*reference_->machine, reference_->state));
    reference_->machine->run_slice(1);
  }
  return !compare_processors() || !compare_known_pages();
}

std::string Lockstep::report_place() const {
  std::string text =
      fmt::format("first difference within instructions {} to {}\n", fine_start_, optimised_->clock->instructions()) +
      report_states();
  text += "what the reference machine executed:\n";
  for (const std::string& line : trace_) text += "  " + line + "\n";
  return text;
}

Result<MachineExit> Lockstep::run() {
  const bool console = options_.console != ConsoleKind::kNone;
  input_open_ = console;
  RHEA_TRY(create(console ? STDOUT_FILENO : -1));
  uint64_t agreed = 0;
  for (uint64_t interval = 1;; ++interval) {
    const uint64_t before = optimised_->clock->instructions();
    const std::optional<MachineExit> end = step(options_.dbt_verify);
    const bool everything = end || interval % kFullCheckIntervals == 0;
    bool same = compare_processors();
    if (same) same = everything ? compare_everything() : compare_slice();
    if (!same) {
      const uint64_t now = optimised_->clock->instructions();
      // A difference in RAM may be as old as the last look at all of it.
      const bool in_processor = !differences_[0].starts_with("RAM");
      const uint64_t from = in_processor ? before : agreed;
      fmt::print(stderr, "\nrhea: the machines differ between instructions {} and {}; looking for the place\n", from,
                 now);
      return MachineExit{.kind = MachineExit::Kind::kHostError,
                         .text = "optimised and reference translation differ\n" + RHEA_TRY(narrow_down(from, now))};
    }
    if (everything) agreed = optimised_->clock->instructions();
    if (end) {
      fmt::print(stderr, "rhea: {} instructions verified, {} at a time\n", optimised_->clock->instructions(),
                 options_.dbt_verify);
      return *end;
    }
    take_input(optimised_->clock->instructions() == before);
  }
}

}  // namespace

Result<MachineExit> run_lockstep(const RunOptions& options) { return Lockstep(options).run(); }

}  // namespace rhea::app
