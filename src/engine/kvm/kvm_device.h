// SPDX-License-Identifier: Apache-2.0
// /dev/kvm: opening it, asking what it can do, and the calls that everything here makes of it. [kvm-api]
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace rhea::engine_kvm {

// An ioctl whose failure is an error. The value is the ioctl's, not negative.
template <class Argument>
Result<int> checked_ioctl(int fd, unsigned long request, Argument argument, const char* what) {
  const int value = ioctl(fd, request, argument);
  if (value < 0) return fail(Error::from_errno(errno, what));
  return value;
}

// The device file. Thread-safe once open.
class KvmDevice {
 public:
  // Errors: kNotFound, kPermissionDenied as open() has them, kUnsupported for another API version than the stable one.
  static Result<KvmDevice> open(const std::string& path = "/dev/kvm");

  int fd() const { return fd_.get(); }
  // 0: no; else what the capability's text says. [kvm-api KVM_CHECK_EXTENSION]
  int capability(int number) const;
  // A new, empty virtual machine. Errors: kBusy where another hypervisor holds the processor's extensions.
  Result<base::UniqueFd> create_vm() const;

 private:
  explicit KvmDevice(base::UniqueFd fd) : fd_(std::move(fd)) {}
  base::UniqueFd fd_;
};

}  // namespace rhea::engine_kvm
