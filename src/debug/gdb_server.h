// SPDX-License-Identifier: Apache-2.0
// The gdb server: listens on tcp:HOST:PORT or unix:PATH and serves one debugger at a time.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/event_loop.h"
#include "debug/debug_target.h"

namespace rhea::debug {

// Threads: created, used and destroyed on the event loop's thread (or while it does not run), except on_stopped().
// The VM runs on without a debugger; a connection stops it, a lost connection lets it run on.
class GdbServer {
 public:
  // `loop` and `target` outlive the server. Anyone who can connect owns the guest: unix sockets are made for their
  // owner only, and a TCP address other than loopback is the user's explicit choice.
  // Errors: kInvalidArgument for a malformed address, otherwise what socket, bind or listen said.
  static Result<std::unique_ptr<GdbServer>> create(base::EventLoop& loop, DebugTarget& target,
                                                   std::string_view address);
  ~GdbServer();
  GdbServer(const GdbServer&) = delete;
  GdbServer& operator=(const GdbServer&) = delete;

  // Told by the target whenever the vCPUs have stopped. Any thread.
  void on_stopped(const StopEvent& event);

  // As given, with the real port if it was 0.
  const std::string& address() const;
  bool connected() const;

 private:
  class Impl;
  explicit GdbServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

}  // namespace rhea::debug
