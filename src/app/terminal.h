// SPDX-License-Identifier: Apache-2.0
// The user's terminal in raw mode, and back again whatever happens to this process.
#pragma once

#include <sys/types.h>
#include <termios.h>

#include <memory>

#include "base/error.h"
#include "base/fd.h"

namespace rhea::app {

// A small guardian process holds the saved settings and puts them back if this process ends without having done
// so itself: after SIGKILL, a crash or an abort no handler here could. Created while the process has one thread.
class RawTerminal {
 public:
  static Result<std::unique_ptr<RawTerminal>> create(int terminal_fd);
  ~RawTerminal();  // restores
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

  void enter_raw();  // again after SIGCONT: a shell has had the terminal meanwhile

 private:
  RawTerminal(int fd, const termios& saved) : fd_(fd), saved_(saved) {}
  Status start_guardian();

  int fd_;
  termios saved_;
  base::UniqueFd guardian_pipe_;
  pid_t guardian_ = -1;
};

}  // namespace rhea::app
