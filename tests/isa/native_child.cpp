// SPDX-License-Identifier: Apache-2.0
// The process in which the host CPU executes test cases.
//
// One signal per case does everything. The case runs "below" a signal handler: it ends in an exception
// (INT3 after the code, or a fault), the kernel builds a signal frame with the whole user-visible state, and
// the handler copies that frame out, writes the state of the next case over it and returns, whereupon the
// kernel loads it: registers, flags, CS (so 32-bit code too), x87, vector state and MXCSR. The handler runs on
// its own stack and may assume nothing about segments (so nothing thread-local) or flags. Seccomp leaves the process
// only the calls that the handler makes: what a case does to this process ends with this process.
#include "tests/isa/native_child.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <unistd.h>

extern "C" void rhea_native_signal_entry(int, siginfo_t*, void*);
extern "C" void rhea_native_on_signal(int, siginfo_t*, void*);

// A case may leave NT or AC set, and the kernel passes them on to the handler.
asm(R"(
  .text
  .globl rhea_native_signal_entry
rhea_native_signal_entry:
  pushq $2
  popfq
  jmp rhea_native_on_signal
)");

namespace rhea::tests::isa {
namespace {

// gregs indices of RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8..R15.
constexpr int kGregs[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
constexpr uint64_t kCs64 = 0x33, kCs32 = 0x23;
constexpr uint16_t kUserData = 0x2b;
constexpr size_t kLegacyBytes = 416;          // x87 and SSE registers; the rest of the legacy area is the kernel's
constexpr uint64_t kSettableFlags = 0x40dd5;  // what a signal return loads, without RF: AC OF DF TF SZAPC

// A signal handler has no other way to its data.
struct Child {
  NativeRing* ring;
  std::byte* backing;  // the arena's pages, writable
  VectorLayout vectors;
  uint32_t next;  // number of the running case, or of the one to come
  bool running;
};
Child child;

uint64_t read_fs_base() {
  uint64_t value;
  asm volatile("rdfsbase %0" : "=r"(value));
  return value;
}
uint64_t read_gs_base() {
  uint64_t value;
  asm volatile("rdgsbase %0" : "=r"(value));
  return value;
}
void write_fs_base(uint64_t value) { asm volatile("wrfsbase %0" ::"r"(value)); }
void write_gs_base(uint64_t value) { asm volatile("wrgsbase %0" ::"r"(value)); }

void copy_bytes(void* to, const void* from, size_t size) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
}

long futex(std::atomic<uint32_t>* word, int operation, uint32_t value) {
  long result;
  register long r10 asm("r10") = 0;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(SYS_futex), "D"(word), "S"(operation), "d"(value), "r"(r10)
               : "rcx", "r11", "memory");
  return result;
}

void capture(int signal, const ucontext_t& context, uint64_t fs_base, uint64_t gs_base) {
  Output& output = child.ring->output[child.next % kRingSlots];
  const auto& gregs = context.uc_mcontext.gregs;
  for (int i = 0; i < 16; ++i) output.state.gpr[i] = static_cast<uint64_t>(gregs[kGregs[i]]);
  output.state.rip = static_cast<uint64_t>(gregs[REG_RIP]);
  output.state.rflags = static_cast<uint64_t>(gregs[REG_EFL]);
  const auto segments = static_cast<uint64_t>(gregs[REG_CSGSFS]);
  uint16_t ds, es, fs, gs;
  asm volatile("mov %%ds, %0\n mov %%es, %1\n mov %%fs, %2\n mov %%gs, %3" : "=r"(ds), "=r"(es), "=r"(fs), "=r"(gs));
  output.state.selector = {es, static_cast<uint16_t>(segments), static_cast<uint16_t>(segments >> 48), ds, fs, gs};
  output.state.fs_base = fs_base;
  output.state.gs_base = gs_base;
  copy_bytes(output.state.xsave.data(), context.uc_mcontext.fpregs, child.vectors.bytes);
  output.outcome.kind = signal == SIGALRM ? OutcomeKind::kTimeout : OutcomeKind::kException;
  output.outcome.vector = static_cast<uint8_t>(gregs[REG_TRAPNO]);
  output.outcome.error_code = static_cast<uint32_t>(gregs[REG_ERR]);
  output.outcome.fault_address = output.outcome.vector == 14 ? static_cast<uint64_t>(gregs[REG_CR2]) : 0;
  copy_bytes(output.image.data(), child.backing, kImageBytes);

  ++child.next;
  child.running = false;
  child.ring->completed.store(child.next, std::memory_order_seq_cst);
  if (child.ring->parent_waits.load(std::memory_order_seq_cst)) futex(&child.ring->completed, FUTEX_WAKE, 1);
}

void wait_for_case() {
  NativeRing& ring = *child.ring;
  while (ring.submitted.load(std::memory_order_seq_cst) == child.next) {
    ring.child_waits.store(1, std::memory_order_seq_cst);
    if (ring.submitted.load(std::memory_order_seq_cst) == child.next) futex(&ring.submitted, FUTEX_WAIT, child.next);
    ring.child_waits.store(0, std::memory_order_seq_cst);
  }
}

void load(ucontext_t& context) {
  const Input& input = child.ring->input[child.next % kRingSlots];
  copy_bytes(child.backing, input.image.data(), kImageBytes);
  auto& gregs = context.uc_mcontext.gregs;
  for (int i = 0; i < 16; ++i) gregs[kGregs[i]] = static_cast<greg_t>(input.state.gpr[i]);
  gregs[REG_RIP] = static_cast<greg_t>(input.state.rip);
  gregs[REG_EFL] = static_cast<greg_t>((input.state.rflags & kSettableFlags) | 0x202);
  gregs[REG_CSGSFS] = static_cast<greg_t>((static_cast<uint64_t>(kUserData) << 48) | (input.mode32 ? kCs32 : kCs64));
  auto* frame = reinterpret_cast<std::byte*>(context.uc_mcontext.fpregs);
  copy_bytes(frame, input.state.xsave.data(), kLegacyBytes);
  copy_bytes(frame + kXsaveYmmHigh, input.state.xsave.data() + kXsaveYmmHigh, child.vectors.bytes - kXsaveYmmHigh);
  // Load all that is compared from the frame, whatever it was before.
  auto* present = reinterpret_cast<uint64_t*>(frame + kXsaveHeader);
  *present = (*present & ~uint64_t{0xe7}) | child.vectors.components;
  child.running = true;
  // 32-bit code needs data segments; 64-bit code does not look at them.
  asm volatile("mov %0, %%ds\n mov %0, %%es\n mov %1, %%fs\n mov %1, %%gs" ::"r"(kUserData), "r"(uint16_t{0}));
  write_fs_base(input.state.fs_base);
  write_gs_base(input.state.gs_base);
}

bool confine() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{.len = sizeof filter / sizeof filter[0], .filter = filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

bool map_arena(int backing_fd) {
  void* writable = mmap(nullptr, kImageBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, backing_fd, 0);
  if (writable == MAP_FAILED) return false;
  child.backing = static_cast<std::byte*>(writable);
  for (const ArenaMapping& mapping : kArena) {
    int protection = PROT_READ;
    if (mapping.protection == Protection::kReadWrite) protection |= PROT_WRITE;
    if (mapping.protection == Protection::kReadExecute) protection |= PROT_EXEC;
    if (mapping.protection == Protection::kReadWriteExecute) protection |= PROT_WRITE | PROT_EXEC;
    auto* wanted = reinterpret_cast<void*>(mapping.linear);
    if (mmap(wanted, kPage, protection, MAP_SHARED | MAP_POPULATE | MAP_FIXED_NOREPLACE, backing_fd,
             static_cast<off_t>(image_offset(mapping.page))) != wanted)
      return false;
  }
  return true;
}

}  // namespace

extern "C" void rhea_native_on_signal(int signal, siginfo_t*, void* opaque) {
  auto& context = *static_cast<ucontext_t*>(opaque);
  if (child.running) {
    // A late alarm for a case that has ended since hits an innocent one: let that go on.
    if (signal == SIGALRM && child.ring->give_up.load() != child.next + 1) return;
    capture(signal, context, read_fs_base(), read_gs_base());
  }
  wait_for_case();
  load(context);
}

void native_child_main(NativeRing& ring, int backing_fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  child.ring = &ring;
  child.vectors = vector_layout();
  child.next = ring.completed.load();
  // LSL can see which processor it runs on: always the same one, as in the guest.
  cpu_set_t allowed, first;
  CPU_ZERO(&first);
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    int cpu = 0;
    while (cpu < CPU_SETSIZE - 1 && !CPU_ISSET(cpu, &allowed)) ++cpu;
    CPU_SET(cpu, &first);
    sched_setaffinity(0, sizeof first, &first);
  }
  if (!map_arena(backing_fd)) _exit(2);

  constexpr size_t kStackBytes = 256 * 1024;  // signal frames with AVX-512 and AMX take 12 KiB
  void* stack_memory =
      mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (stack_memory == MAP_FAILED) _exit(3);
  const stack_t stack{.ss_sp = stack_memory, .ss_flags = 0, .ss_size = kStackBytes};
  if (sigaltstack(&stack, nullptr) != 0) _exit(3);

  struct sigaction action{};
  action.sa_sigaction = rhea_native_signal_entry;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigfillset(&action.sa_mask);
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGALRM}) {
    sigset_t unblock;
    sigemptyset(&unblock);
    sigaddset(&unblock, signal);
    sigprocmask(SIG_UNBLOCK, &unblock, nullptr);
    if (sigaction(signal, &action, nullptr) != 0) _exit(4);
  }
  if (!confine()) _exit(5);
  asm volatile("int3");
  _exit(6);
}

}  // namespace rhea::tests::isa
