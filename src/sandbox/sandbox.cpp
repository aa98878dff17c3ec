// SPDX-License-Identifier: Apache-2.0
// The filters and the message that a forbidden call ends in.
#include "sandbox/sandbox.h"

#include <fmt/format.h>
#include <linux/audit.h>
#include <malloc.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace rhea::sandbox {
namespace {

constexpr int kRaisedBySeccomp = 1;  // SYS_SECCOMP of the kernel's siginfo.h, which clashes with the C library's
constexpr int kExitStatus = 1;       // as for any other failure on the host's side

// constinit: a thread_local without dynamic initialisation is a plain load, safe in a signal handler.
constinit thread_local char thread_name[16] = {};

// Names by number, looked up beforehand, because libseccomp allocates. Written once, before SIGSYS is ours.
struct CallNames {
  static constexpr size_t kCount = 1024;
  std::array<std::array<char, 32>, kCount> names{};
  CallNames() {
    for (size_t call = 0; call < kCount; ++call) {
      char* name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, static_cast<int>(call));
      if (!name) continue;
      std::strncpy(names[call].data(), name, names[call].size() - 1);
      std::free(name);
    }
  }
};
const CallNames& call_names() {
  static const CallNames names;
  return names;
}

// The process is about to end, and its memory may be in any state: a buffer on the stack, one write().
void on_forbidden_call(int, siginfo_t* info, void*) {
  if (info->si_code != kRaisedBySeccomp) return;  // sent by somebody with kill()
  const auto call = static_cast<unsigned>(info->si_syscall);
  const bool native = info->si_arch == AUDIT_ARCH_X86_64;
  const char* name = native && call < CallNames::kCount ? call_names().names[call].data() : "";
  char line[256];
  const auto end =
      fmt::format_to_n(line, sizeof line,
                       "rhea: {} made the system call {}{}({}), which the sandbox forbids; the virtual machine ends\n",
                       thread_name[0] ? thread_name : "a thread", *name ? name : "unknown",
                       native ? "" : " of another architecture", call);
  [[maybe_unused]] const ssize_t written = ::write(2, line, std::min(end.size, sizeof line));
  ::_exit(kExitStatus);
}

}  // namespace

// A thread's own arena reads /proc/sys/vm/overcommit_memory when it first gives memory back; one arena for all does
// not.
void Sandbox::prepare() { ::mallopt(M_ARENA_MAX, 1); }

Result<std::unique_ptr<Sandbox>> Sandbox::create(Options options) {
  const std::span<const Rule> none;
  const std::span<const Rule> lists[] = {vcpu_rules(),
                                         options.kvm ? kvm_rules() : none,
                                         device_rules(),
                                         options.tap ? tap_rules() : none,
                                         options.connections ? connection_rules() : none,
                                         options.network ? network_rules() : none};
  Filter process = RHEA_TRY(Filter::create(lists));
  Filter device = RHEA_TRY(Filter::create(std::span(lists).first(5)));
  Filter vcpu = RHEA_TRY(Filter::create(std::span(lists).first(2)));
  call_names();
  struct sigaction action{};
  action.sa_sigaction = on_forbidden_call;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  if (::sigaction(SIGSYS, &action, nullptr) != 0)
    return fail(Error::from_errno(errno, "cannot install the sandbox's signal handler"));
  return std::unique_ptr<Sandbox>(new Sandbox(std::move(process), std::move(device), std::move(vcpu)));
}

Status Sandbox::confine_process() const { return process_.install(Filter::Scope::kProcess); }

Status Sandbox::confine_thread(Role role, const char* name) const {
  std::strncpy(thread_name, name, sizeof thread_name - 1);
  return (role == Role::kVcpu ? vcpu_ : device_).install(Filter::Scope::kThread);
}

}  // namespace rhea::sandbox
