// SPDX-License-Identifier: Apache-2.0
// What of the file system a thread may open. [Linux Documentation/userspace-api/landlock.rst]
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "base/fd.h"
#include "sandbox/sandbox.h"

namespace rhea::sandbox {

Status Sandbox::confine_files(std::span<const char* const> readable) {
  // The rights of the first version: later ones only add to what is taken, never to what is left.
  constexpr uint64_t kAllRights = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs = kAllRights;
  const base::UniqueFd rules(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes.handled_access_fs, 0)));
  if (!rules) return fail(ErrorCode::kUnsupported, "the kernel has no Landlock");
  for (const char* path : readable) {
    const base::UniqueFd file(::open(path, O_PATH | O_CLOEXEC));
    if (!file) continue;  // what is not there need not be read
    landlock_path_beneath_attr rule{};
    rule.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE;
    rule.parent_fd = file.get();
    if (::syscall(SYS_landlock_add_rule, rules.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0)
      return fail(Error::from_errno(errno, "cannot add a file to what may be read"));
  }
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::syscall(SYS_landlock_restrict_self, rules.get(), 0) != 0)
    return fail(Error::from_errno(errno, "cannot confine a thread to files"));
  return {};
}

}  // namespace rhea::sandbox
