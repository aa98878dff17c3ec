// SPDX-License-Identifier: Apache-2.0
// The allow lists. Each row says who needs the call, after the VM has started; what is needed before that (opening
// files, creating descriptors, mapping executable memory) is not here. docs/threat-model.md explains what this keeps
// from whom, and what it does not.
#include "sandbox/allow_list.h"

#include <asm/termbits.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

namespace rhea::sandbox {
namespace {

constexpr ArgumentRule equals(uint8_t argument, uint64_t value) { return {argument, ~uint64_t{0}, value}; }
constexpr ArgumentRule lacks(uint8_t argument, uint64_t bits) { return {argument, bits, 0}; }
constexpr ArgumentRule has(uint8_t argument, uint64_t bits) { return {argument, bits, bits}; }

constexpr Rule allow(int call, const char* reason) { return {.call = call, .reason = reason}; }
constexpr Rule allow(int call, const char* reason, ArgumentRule rule) {
  return {.call = call, .reason = reason, .when = {rule}, .condition_count = 1};
}
constexpr Rule allow(int call, const char* reason, ArgumentRule first, ArgumentRule second) {
  return {.call = call, .reason = reason, .when = {first, second}, .condition_count = 2};
}
constexpr Rule absent(int call, const char* reason, ArgumentRule rule) {
  return {.call = call, .reason = reason, .when = {rule}, .condition_count = 1, .verdict = Rule::Verdict::kAbsent};
}
constexpr Rule absent(int call, const char* reason) {
  return {.call = call, .reason = reason, .verdict = Rule::Verdict::kAbsent};
}

// No new executable memory, on any thread: the code cache was mapped before, and it is the only such memory. mmap() of
// a vCPU thread takes no descriptor either.
constexpr Rule kVcpuRules[] = {
    // Waiting for each other.
    allow(SYS_futex, "mutexes and condition variables, the halted vCPU's sleep, the code space's lock"),
    allow(SYS_sched_yield, "a guest that spins gives its processor to the others; readers of a view being replaced"),
    allow(SYS_restart_syscall, "the kernel's way to go on with a sleep after SIGCONT"),
    // Time.
    allow(SYS_clock_gettime, "the machine's clock; a system call only where the host's vDSO cannot read the time"),
    allow(SYS_timerfd_settime, "arming the machine's timers"),
    // What devices do on the thread that touches their registers.
    allow(SYS_write, "console output, waking the event loop, the log, the perf map"),
    allow(SYS_poll, "console output asks whether its reader is ready"),
    // The C library's memory: private, never executable.
    allow(SYS_mmap, "malloc", lacks(2, PROT_EXEC), has(3, MAP_PRIVATE | MAP_ANONYMOUS)),
    allow(SYS_mprotect, "malloc grows its arenas; the guard page of a signal stack", lacks(2, PROT_EXEC)),
    allow(SYS_munmap, "malloc and signal stacks return memory"),
    allow(SYS_madvise, "malloc returns memory; the end of a thread returns its stack"),
    allow(SYS_brk, "malloc"),
    allow(SYS_mremap, "malloc: realloc() of large blocks"),
    allow(SYS_sched_getaffinity, "malloc decides how many arenas there may be; a thread's start"),
    // Faults of guest code, which arrive as signals.
    allow(SYS_rt_sigreturn, "the end of every signal handler"),
    allow(SYS_sigaltstack, "faults are taken on a stack of their own"),
    allow(SYS_rt_sigprocmask, "the C library around thread exit and abort()"),
    allow(SYS_rt_sigaction, "the fault dispatcher", equals(0, SIGSEGV)),
    allow(SYS_rt_sigaction, "the fault dispatcher", equals(0, SIGBUS)),
    allow(SYS_rt_sigaction, "the fault dispatcher", equals(0, SIGFPE)),
    allow(SYS_rt_sigaction, "the fault dispatcher", equals(0, SIGILL)),
    allow(SYS_rt_sigaction, "the fault dispatcher", equals(0, SIGTRAP)),
    allow(SYS_rt_sigaction, "abort() takes its handler away", equals(0, SIGABRT)),
    // The end, orderly or not.
    allow(SYS_exit, "the end of a thread"),
    allow(SYS_exit_group, "the end of the process, after a call that is not in this list too"),
    allow(SYS_gettid, "abort() and raise()"),
    allow(SYS_getpid, "abort() and raise()"),
    allow(SYS_tgkill, "abort() after a failed check; a fault that is not ours ends the process",
          equals(0, kOwnProcess)),
};

// Beyond the above, for event loops and the threads that work for them.
constexpr Rule kDeviceRules[] = {
    // The event loop.
    allow(SYS_epoll_wait, "the event loop"),
    allow(SYS_epoll_pwait, "the event loop"),
    allow(SYS_epoll_ctl, "descriptors join and leave the event loop"),
    allow(SYS_ppoll, "waiting for a console's reader"),
    allow(SYS_read, "console input, timers, signals, the wake-up of the loop"),
    // Disk images. The ring takes no operations but these and reads and writes (src/block/uring_file.cpp).
    allow(SYS_io_uring_enter, "a disk's requests"),
    allow(SYS_preadv, "a disk's requests where there is no io_uring"),
    allow(SYS_pwritev, "a disk's requests where there is no io_uring"),
    allow(SYS_fdatasync, "the order in which an image's tables are written; requests where there is no io_uring"),
    allow(SYS_fallocate, "a disk's requests where there is no io_uring"),
    // Files that are open: kernel and initial RAM disk are read anew when the guest restarts.
    allow(SYS_pread64, "boot files; the tables of a structured disk image"),
    allow(SYS_pwrite64, "the tables of a structured disk image"),
    allow(SYS_readv, "boot files"),
    allow(SYS_lseek, "boot files; the standard streams' buffers at the end"),
    allow(SYS_fstat, "boot files; the standard streams' first use"),
    allow(SYS_newfstatat, "fstat(), in the C library's spelling: an empty path", has(3, 0x1000 /* AT_EMPTY_PATH */)),
    allow(SYS_writev, "messages of the C library when it aborts"),
    allow(SYS_close, "descriptors at the end of their life"),
    // The terminal: raw mode again after SIGCONT, the old mode at the end.
    allow(SYS_ioctl, "tcgetattr()", equals(1, TCGETS)),
    allow(SYS_ioctl, "the terminal's size, for the virtio console", equals(1, TIOCGWINSZ)),
    allow(SYS_ioctl, "tcsetattr()", equals(1, TCSETS)),
    allow(SYS_ioctl, "tcsetattr()", equals(1, TCSETSW)),
    allow(SYS_ioctl, "tcsetattr()", equals(1, TCSETSF)),
    allow(SYS_wait4, "the end of the terminal's guardian, a process of before the start"),
    // Threads. clone3() keeps its flags where a filter cannot see them; without it the C library takes clone().
    absent(SYS_clone3, "threads start by clone()"),
    allow(SYS_clone, "a thread, never a process", has(0, CLONE_THREAD | CLONE_VM)),
    allow(SYS_rt_sigaction, "the C library takes a signal of its own with the first thread", equals(0, 33)),
    allow(SYS_set_robust_list, "a thread's start"),
    allow(SYS_rseq, "a thread's start"),
    allow(SYS_prctl, "a thread's name", equals(0, 15 /* PR_SET_NAME */)),
    allow(SYS_seccomp, "a vCPU thread gives up what is not in the shorter list; nothing is ever given back"),
    // Time and chance.
    allow(SYS_clock_nanosleep, "waiting at the end for a console's reader"),
    allow(SYS_getrandom, "the guest's entropy device"),
};

// KVM's calls by type and number: what the size field of a request says, the kernel checks. The VM and its processors
// are there before the start; nothing here creates one, or a device of KVM's.
constexpr ArgumentRule kvm(uint8_t number) { return {1, 0xffff, uint64_t{0xae} << 8 | number}; }
constexpr Rule kKvmRules[] = {
    allow(SYS_ioctl, "KVM_RUN: the guest", kvm(0x80)),
    allow(SYS_ioctl, "KVM_INTERRUPT", kvm(0x86)),
    allow(SYS_ioctl, "KVM_NMI", kvm(0x9a)),
    allow(SYS_ioctl, "KVM_SET_USER_MEMORY_REGION: the guest moves memory of a device", kvm(0x46)),
    allow(SYS_ioctl, "KVM_SET_GUEST_DEBUG: the guest's debug traps, the debugger", kvm(0x9b)),
    allow(SYS_ioctl, "KVM_TRANSLATE: the debugger", kvm(0x85)),
    allow(SYS_ioctl, "KVM_GET_REGS: INIT, reset, the debugger", kvm(0x81)),
    allow(SYS_ioctl, "KVM_SET_REGS", kvm(0x82)),
    allow(SYS_ioctl, "KVM_GET_SREGS2", kvm(0xcc)),
    allow(SYS_ioctl, "KVM_SET_SREGS2", kvm(0xcd)),
    allow(SYS_ioctl, "KVM_GET_MSRS", kvm(0x88)),
    allow(SYS_ioctl, "KVM_SET_MSRS", kvm(0x89)),
    allow(SYS_ioctl, "KVM_GET_VCPU_EVENTS", kvm(0x9f)),
    allow(SYS_ioctl, "KVM_SET_VCPU_EVENTS", kvm(0xa0)),
    allow(SYS_ioctl, "KVM_GET_DEBUGREGS", kvm(0xa1)),
    allow(SYS_ioctl, "KVM_SET_DEBUGREGS", kvm(0xa2)),
    allow(SYS_ioctl, "KVM_SET_XSAVE", kvm(0xa5)),
    allow(SYS_ioctl, "KVM_GET_XSAVE2", kvm(0xcf)),
    allow(SYS_ioctl, "KVM_GET_XCRS", kvm(0xa6)),
    allow(SYS_ioctl, "KVM_SET_XCRS", kvm(0xa7)),
    allow(SYS_ioctl, "KVM_SET_DEVICE_ATTR: the TSC's offset", kvm(0xe1)),
    allow(SYS_ioctl, "KVM_GET_DEVICE_ATTR: the TSC's offset", kvm(0xe2)),
    allow(SYS_tgkill, "a signal takes a processor out of guest mode", equals(0, kOwnProcess)),
};

// Connections come to a socket that was listening before the start; none can be opened to anywhere.
constexpr Rule kConnectionRules[] = {
    allow(SYS_accept4, "a debugger connects"),   allow(SYS_setsockopt, "TCP_NODELAY on a connection"),
    allow(SYS_recvfrom, "a connection's input"), allow(SYS_sendto, "a connection's output"),
    allow(SYS_shutdown, "a connection's end"),   allow(SYS_unlink, "a listening Unix socket's name goes with it"),
};

// A tap device, which was opened before.
constexpr Rule kTapRules[] = {
    allow(SYS_ioctl, "what the guest's driver takes undone in a frame", equals(1, TUNSETOFFLOAD)),
};

// The library of the user-mode network. Executing programs and serving files, which it can do too, it is not asked for.
constexpr Rule kNetworkRules[] = {
    allow(SYS_socket, "the guest's connections", equals(0, AF_INET)),
    allow(SYS_socket, "the guest's connections", equals(0, AF_INET6)),
    absent(SYS_socket, "looking up an interface by name: without it the interface is unknown", equals(0, AF_UNIX)),
    allow(SYS_connect, "the guest's connections"),
    allow(SYS_bind, "the guest's UDP ports"),
    allow(SYS_listen, "forwarded ports"),
    allow(SYS_accept, "forwarded ports"),
    allow(SYS_accept4, "forwarded ports"),
    allow(SYS_getsockname, "the guest's connections"),
    allow(SYS_getpeername, "the guest's connections"),
    allow(SYS_getsockopt, "how a connection went"),
    allow(SYS_setsockopt, "options of the guest's connections"),
    allow(SYS_recvfrom, "the guest's connections"),
    allow(SYS_recvmsg, "errors about what the guest sent"),
    allow(SYS_sendto, "the guest's connections"),
    allow(SYS_shutdown, "the guest's connections"),
    allow(SYS_fcntl, "sockets that do not block"),
    allow(SYS_ioctl, "how much has come", equals(1, FIONREAD)),
    allow(SYS_ioctl, "sockets that do not block", equals(1, FIONBIO)),
    allow(SYS_newfstatat, "has /etc/resolv.conf changed?"),
    allow(SYS_openat, "reading /etc/resolv.conf; other files are kept from it by confine_files()",
          lacks(2, O_ACCMODE | O_CREAT | O_TRUNC)),
};

}  // namespace

std::span<const Rule> kvm_rules() { return kKvmRules; }
std::span<const Rule> device_rules() { return kDeviceRules; }
std::span<const Rule> network_rules() { return kNetworkRules; }
std::span<const Rule> tap_rules() { return kTapRules; }
std::span<const Rule> connection_rules() { return kConnectionRules; }
std::span<const Rule> vcpu_rules() { return kVcpuRules; }

}  // namespace rhea::sandbox
