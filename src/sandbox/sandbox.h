// SPDX-License-Identifier: Apache-2.0
// Confines a running VM to the system calls it needs, so that a guest that breaks into the process is still kept from
// the host's files, network, programs and other processes.
//
//   prepare() -> create() -> confine_process() -> on threads of a role: confine_thread() -> guest code
//
// Allow lists (allow_list.h): one for every thread, from the moment at which the machine is complete, and shorter ones
// on top of it for threads that run guest code and those that work for devices. A call outside them is not executed;
// the process says which it was, in one line on standard error, and ends with status 1 (by the signal SIGSYS, and
// without the line, where the thread has that signal blocked, as the C library does for a moment when it starts a
// thread).
//
// Threads: prepare(), create() and confine_process() on one thread, once; confine_thread() and confine_files() on the
// thread meant.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "base/error.h"
#include "sandbox/filter.h"

namespace rhea::sandbox {

class Sandbox {
 public:
  // False in a build with sanitizers: their runtimes make system calls of their own, at any time, to report and to
  // manage shadow memory, and a list that suits them would prove nothing about the program.
  static constexpr bool built() { return kBuilt; }

  // Before the first thread is started: keeps the C library from calls that it would make later.
  static void prepare();

  struct Options {
    bool connections = false;  // sockets of the process wait for connections
    bool network = false;      // there is a user-mode network
    bool tap = false;          // a network card stands on a tap device
    bool kvm = false;          // /dev/kvm executes the guest
  };
  // Compiles the lists and takes SIGSYS.
  static Result<std::unique_ptr<Sandbox>> create(Options options);

  // All threads that there are, and those that they start. No executable memory can be mapped from here on.
  Status confine_process() const;
  // The calling thread, after confine_process(), for what its role has no use for. `name` (kept by copy, cut off at 15
  // characters) is for the message.
  enum class Role : uint8_t { kVcpu, kDevice };
  Status confine_thread(Role role, const char* name) const;

  // The calling thread, and threads that it starts: no file can be opened but for reading these, as they are now.
  // Errors: kUnsupported where the kernel has no Landlock; then nothing has changed.
  static Status confine_files(std::span<const char* const> readable);

 private:
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  static constexpr bool kBuilt = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
  static constexpr bool kBuilt = false;
#else
  static constexpr bool kBuilt = true;
#endif
#else
  static constexpr bool kBuilt = true;
#endif
  Sandbox(Filter process, Filter device, Filter vcpu)
      : process_(std::move(process)), device_(std::move(device)), vcpu_(std::move(vcpu)) {}

  Filter process_, device_, vcpu_;
};

}  // namespace rhea::sandbox
