// SPDX-License-Identifier: Apache-2.0
// Compiling and installing filters.
#include "sandbox/filter.h"

#include <fmt/format.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "base/fd.h"

namespace rhea::sandbox {
namespace {

struct Release {
  void operator()(scmp_filter_ctx context) const { seccomp_release(context); }
};
using Context = std::unique_ptr<void, Release>;

// libseccomp returns negative error numbers.
Status checked(int result, const char* doing) {
  if (result < 0) return fail(Error::from_errno(-result, doing));
  return {};
}

Status add(scmp_filter_ctx context, const Rule& rule) {
  scmp_arg_cmp comparisons[2];
  for (unsigned i = 0; i < rule.condition_count; ++i) {
    const ArgumentRule& when = rule.when[i];
    const uint64_t value = when.value == kOwnProcess ? static_cast<uint64_t>(::getpid()) : when.value;
    comparisons[i] = {.arg = when.argument, .op = SCMP_CMP_MASKED_EQ, .datum_a = when.mask, .datum_b = value};
  }
  const uint32_t action = rule.verdict == Rule::Verdict::kAllow ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(ENOSYS);
  const int result = seccomp_rule_add_exact_array(context, action, rule.call, rule.condition_count, comparisons);
  if (result == -EEXIST) return {};  // a more general rule is there
  return checked(result, "adding a rule to a system call filter");
}

}  // namespace

Result<Filter> Filter::create(std::span<const std::span<const Rule>> lists) {
  const Context context(seccomp_init(SCMP_ACT_TRAP));
  if (!context) return fail(ErrorCode::kExhausted, "no memory for a system call filter");
  // Calls of another architecture's table (32-bit ones) are no less forbidden, and told about the same way.
  RHEA_TRY(checked(seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_TRAP), "making a filter"));
  for (const std::span<const Rule> list : lists)
    for (const Rule& rule : list) RHEA_TRY(add(context.get(), rule));
  const base::UniqueFd file(::memfd_create("rhea-seccomp", MFD_CLOEXEC));
  if (!file) return fail(Error::from_errno(errno, "cannot create a file for a system call filter"));
  RHEA_TRY(checked(seccomp_export_bpf(context.get(), file.get()), "compiling a system call filter"));
  const off_t bytes = ::lseek(file.get(), 0, SEEK_END);
  if (bytes <= 0 || bytes % static_cast<off_t>(sizeof(sock_filter)) != 0)
    return fail(ErrorCode::kInternal, fmt::format("a system call filter of {} bytes", bytes));
  std::vector<sock_filter> program(static_cast<size_t>(bytes) / sizeof(sock_filter));
  if (::pread(file.get(), program.data(), static_cast<size_t>(bytes), 0) != bytes)
    return fail(Error::from_errno(errno, "cannot read a system call filter"));
  return Filter(std::move(program));
}

Status Filter::install(Scope scope) const {
  if (scope == Scope::kProcess && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return fail(Error::from_errno(errno, "cannot give up new privileges"));
  sock_fprog program{.len = static_cast<unsigned short>(program_.size()),
                     .filter = const_cast<sock_filter*>(program_.data())};  // SAFETY: the kernel reads only
  // Kernels before 5.16 would else also turn off speculative store bypass for confined threads, which guest code pays
  // for with every store; what guest code may read by speculation, docs/threat-model.md says.
  unsigned long flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW;
  if (scope == Scope::kProcess) flags |= SECCOMP_FILTER_FLAG_TSYNC;
  const long result = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
  if (result < 0) return fail(Error::from_errno(errno, "the kernel does not take a system call filter (seccomp)"));
  if (result > 0)
    return fail(ErrorCode::kInternal, fmt::format("thread {} has a system call filter of its own already", result));
  return {};
}

}  // namespace rhea::sandbox
