// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/run.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "engine/dbt/dbt_engine.h"
#include "io/host_clock.h"
#include "machine/byte_image.h"
#include "machine/pc/cpu_dump.h"
#include "machine/pc/machine.h"
#include "tests/hostile/leak.h"
#include "tests/hostile/world.h"

namespace rhea::tests::hostile {
namespace {

using machine::Machine;
using machine::MachineExit;

constexpr size_t kPage = 4096, kDiskBytes = 256 << 10;
constexpr uint64_t kCanaryBytes = 256 << 10;

base::UniqueFd memory_file(const char* name, std::span<const std::byte> content) {
  base::UniqueFd fd(memfd_create(name, MFD_CLOEXEC));
  RHEA_CHECK(fd && pwrite(fd.get(), content.data(), content.size(), 0) == static_cast<ssize_t>(content.size()));
  return fd;
}

// A Multiboot kernel that is there because a machine has one; it runs only after a reset.
std::vector<std::byte> kernel_image() {
  machine::ByteImage image;
  image.u32(0x1badb002).u32(0x10000).u32(-(0x1badb002 + 0x10000u));
  image.u32(0x100000).u32(0x100000).u32(0).u32(0).u32(0x100020);
  image.u8(0xeb).u8(0xfe).zeros(64);
  const auto span = image.span();
  return {span.begin(), span.end()};
}

uint64_t cpu_time_ns() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// Stops the machine once the process has used so much time; a guest that sleeps is stopped by the wall's clock. How
// long a guest runs is no verdict.
class Conductor {
 public:
  Conductor(Machine& machine, unsigned cpu_milliseconds)
      : thread_([this, &machine, cpu_milliseconds] {
          const uint64_t end = cpu_time_ns() + uint64_t{cpu_milliseconds} * 1'000'000;
          for (unsigned i = 0; i < 10 * cpu_milliseconds && !done_ && cpu_time_ns() < end; ++i)
            std::this_thread::sleep_for(std::chrono::microseconds(500));
          machine.request_stop();
        }) {}
  ~Conductor() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

std::string_view name_of(MachineExit::Kind kind) {
  switch (kind) {
    case MachineExit::Kind::kPoweredOff: return "powered off";
    case MachineExit::Kind::kResetRequested: return "reset";
    case MachineExit::Kind::kShutdown: return "triple fault";
    case MachineExit::Kind::kDebugExit: return "debug exit";
    case MachineExit::Kind::kStopped: return "stopped";
    case MachineExit::Kind::kHostError: return "host error";
  }
  return "?";
}

engine_dbt::DbtOptions engine_options(const Case& value) {
  engine_dbt::DbtOptions options{.code_cache_bytes = 16u << 20};
  if (value.choices & kReference) options.opt_level = 0;
  if (value.choices & kSmallCache) options.code_cache_bytes = 1u << 20;
  if (value.choices & kSmallTlb) options.tlb_index_mask = 15;
  return options;
}

}  // namespace

// Memory of the process full of one word, around which a machine is made: what reads beyond its own finds it.
struct Arena::Secret {
  uint64_t word = 0;
  std::vector<uint64_t> heap;
  struct Canary {
    explicit Canary(uint64_t word)
        : memory(mmap(nullptr, kCanaryBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
      RHEA_CHECK(memory != MAP_FAILED);
      std::fill_n(static_cast<uint64_t*>(memory), kCanaryBytes / 8, word);
    }
    ~Canary() { munmap(memory, kCanaryBytes); }
    Canary(const Canary&) = delete;
    Canary& operator=(const Canary&) = delete;
    void* memory;
  };
};

Arena::Arena() : secret_(std::make_unique<Secret>()), pattern_(kRamBytes) {
  kernel_ = memory_file("hostile-kernel", kernel_image());
  disk_ = memory_file("hostile-disk", std::vector<std::byte>(kDiskBytes, std::byte{0xd1}));
  kernel_path_ = fmt::format("/proc/self/fd/{}", kernel_.get());
  disk_path_ = fmt::format("/proc/self/fd/{}", disk_.get());
  RHEA_CHECK(getrandom(&secret_->word, sizeof secret_->word, 0) == sizeof secret_->word);
  secret_->heap.assign(kCanaryBytes / 8, secret_->word);
  for (uint64_t at = 0; at < kRamBytes; at += 8) {
    const uint64_t word = pattern_at(at);
    std::memcpy(pattern_.data() + at, &word, 8);
  }
}
Arena::~Arena() = default;

Outcome Arena::run(const Case& value, unsigned cpu_milliseconds) {
  auto loop = std::move(*base::EventLoop::create());
  base::Log log;
  auto clock = std::move(*io::HostClock::create(*loop));
  auto model =
      *cpu::CpuModel::create({.name = "max", .tsc_frequency_hz = clock->tsc_frequency_hz(), .cpu_count = kVcpus});
  Machine::Options options{.memory_bytes = kRamBytes,
                           .cpu_count = kVcpus,
                           .kernel_path = kernel_path_,
                           .reboot = (value.choices & kReboot) != 0};
  options.board.debug_exit = true;
  options.board.debugcon = [](std::span<const std::byte>) {};
  if (value.choices & kDisks) {
    options.board.disks.push_back({.path = disk_path_, .io_uring = false});
    options.board.entropy = true;
  }
  const Secret::Canary below(secret_->word);
  auto created = Machine::create(options, {.loop = *loop,
                                           .log = log,
                                           .clock = std::move(clock),
                                           .cpu_model = model,
                                           .create_engine = [&](const cpu::EngineContext& context) {
                                             return engine_dbt::create_dbt_engine(context, engine_options(value));
                                           }});
  if (!created) return {.end = "cannot make the machine: " + created.error().to_string()};
  Machine& machine = **created;
  const Secret::Canary above(secret_->word);

  std::vector<uint8_t> before = pattern_;
  constexpr uint64_t kFirmware = machine::kVideoHoleStart, kFirmwareEnd = machine::kFirmwareAreaEnd;
  auto bytes_of = [](std::vector<uint8_t>& bytes) { return std::as_writable_bytes(std::span(bytes)); };
  (void)machine.memory().read({kFirmware}, bytes_of(before).subspan(kFirmware, kFirmwareEnd - kFirmware));
  build_memory(value, before);
  (void)machine.memory().write({0}, bytes_of(before));
  for (unsigned i = 0; i < kVcpus; ++i) machine.vcpu(i).set_state(initial_state(value, i, model));

  MachineExit exit;
  {
    const Conductor conductor(machine, cpu_milliseconds);
    exit = machine.run();
  }
  Outcome outcome{.end = std::string(name_of(exit.kind))};
  if (exit.kind == MachineExit::Kind::kHostError) outcome.leak = exit.text;

  const std::vector<uint8_t> program = to_bytes(value);
  std::vector<uint8_t> after(kRamBytes);
  (void)machine.memory().read({0}, bytes_of(after));
  for (size_t at = 0; at < kRamBytes && outcome.leak.empty(); at += kPage) {
    if (std::memcmp(after.data() + at, before.data() + at, kPage) == 0) continue;
    const size_t size = std::min(kPage + 7, kRamBytes - at);
    outcome.leak = find_leak({.after = std::span(after).subspan(at, size),
                              .before = std::span(before).subspan(at, size),
                              .program = program,
                              .secret = secret_->word},
                             fmt::format("RAM at {:#x}", at));
  }
  const auto state = std::make_unique<cpu::CpuState>();
  for (unsigned i = 0; i < kVcpus && outcome.leak.empty(); ++i) {
    machine.vcpu(i).get_state(*state);
    outcome.end += "\n  " + machine::summarise_cpu_state(*state);
    outcome.leak = find_leak({.after = {reinterpret_cast<const uint8_t*>(state.get()), sizeof *state},
                              .before = {},
                              .program = program,
                              .step = 8,
                              .secret = secret_->word},
                             fmt::format("the state of vCPU {}", i));
  }
  return outcome;
}

}  // namespace rhea::tests::hostile
