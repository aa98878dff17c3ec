// SPDX-License-Identifier: Apache-2.0
#include "engine/kvm/kvm_device.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>

namespace rhea::engine_kvm {

namespace {
constexpr int kStableApiVersion = 12;
}

Result<KvmDevice> KvmDevice::open(const std::string& path) {
  KvmDevice device(RHEA_TRY(base::open_file(path, O_RDWR | O_CLOEXEC)));
  const int version = RHEA_TRY(checked_ioctl(device.fd(), KVM_GET_API_VERSION, 0, "asking KVM for its version"));
  if (version != kStableApiVersion)
    return fail(ErrorCode::kUnsupported,
                fmt::format("{} speaks version {} of the KVM API, not {}", path, version, kStableApiVersion));
  return device;
}

int KvmDevice::capability(int number) const {
  const int value = ioctl(fd(), KVM_CHECK_EXTENSION, number);
  return value < 0 ? 0 : value;
}

Result<base::UniqueFd> KvmDevice::create_vm() const {
  int vm;
  do {
    vm = ioctl(fd(), KVM_CREATE_VM, 0);
  } while (vm < 0 && errno == EINTR);
  if (vm >= 0) return base::UniqueFd(vm);
  if (errno == EBUSY)
    return fail(ErrorCode::kBusy, "another hypervisor on this host holds the processor's virtualization extensions");
  return fail(Error::from_errno(errno, "creating a virtual machine"));
}

}  // namespace rhea::engine_kvm
