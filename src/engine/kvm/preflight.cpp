// SPDX-License-Identifier: Apache-2.0
#include "engine/kvm/preflight.h"

#include <fmt/format.h>
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "engine/kvm/kvm_device.h"

namespace rhea::engine_kvm {

namespace {

using Verdict = Preflight::Verdict;

enum class Extensions { kNone, kIntel, kAmd };

// The processor's flags as the kernel shows them; the first processor stands for all.
Extensions extensions_of(const std::string& cpuinfo) {
  std::ifstream file(cpuinfo);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;) {
      if (word == "vmx") return Extensions::kIntel;
      if (word == "svm") return Extensions::kAmd;
    }
    break;
  }
  return Extensions::kNone;
}

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::string group_of(const std::string& path) {
  struct stat info{};
  if (stat(path.c_str(), &info) != 0 || !(info.st_mode & S_IRGRP) || !(info.st_mode & S_IWGRP)) return {};
  const group* entry = getgrgid(info.st_gid);
  return entry ? entry->gr_name : std::string{};
}

Preflight absent(const HostFiles& files, Extensions extensions) {
  Preflight result{.verdict = Verdict::kAbsent, .reason = fmt::format("there is no {}", files.device)};
  if (extensions == Extensions::kNone) {
    result.reason += ", and the processor shows no virtualization extensions";
    result.remedy = "enable VT-x or AMD-V in the firmware; in a virtual machine, nested virtualization in what runs it";
  } else {
    result.remedy = fmt::format("load the kernel's module: modprobe {}; in a container, pass the device in",
                                extensions == Extensions::kIntel ? "kvm_intel" : "kvm_amd");
  }
  return result;
}

Preflight not_permitted(const HostFiles& files) {
  Preflight result{.verdict = Verdict::kNotPermitted, .reason = fmt::format("{} is not for this user", files.device)};
  const std::string group = group_of(files.device);
  result.remedy = group.empty() || group == "root"
                      ? fmt::format("let a group have it: chgrp kvm {0} && chmod 660 {0}, as root", files.device)
                      : fmt::format("join the group '{}' (usermod -aG {} USER, as root) and log in anew", group, group);
  return result;
}

// There is a module whose guests' kernels are not executed by the processor at all, and it has the same device.
bool software_only(const HostFiles& files, Extensions extensions) {
  return extensions == Extensions::kNone || exists(files.modules + "/kvm_pvm");
}

}  // namespace

Preflight examine_host(const HostFiles& files) {
  const Extensions extensions = extensions_of(files.cpuinfo);
  if (!exists(files.device)) return absent(files, extensions);
  auto device = KvmDevice::open(files.device);
  if (!device) {
    if (device.error().code() == ErrorCode::kPermissionDenied) return not_permitted(files);
    return {.verdict = Verdict::kUnusable, .reason = device.error().to_string()};
  }
  if (auto vm = device->create_vm(); !vm) {
    Preflight result{.verdict = Verdict::kUnusable, .reason = vm.error().to_string()};
    if (vm.error().code() == ErrorCode::kBusy) result.remedy = "end the other hypervisor's machines";
    return result;
  }
  if (software_only(files, extensions))
    return {
        .verdict = Verdict::kSoftware,
        .reason = fmt::format("{} here is not hardware virtualization: it emulates the guest's kernel", files.device)};
  return {.verdict = Verdict::kHardware, .reason = "hardware virtualization is there"};
}

}  // namespace rhea::engine_kvm
