// SPDX-License-Identifier: Apache-2.0
// Raw terminal mode and its guardian.
#include "app/terminal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace rhea::app {
namespace {

// Runs in the child: waits for the parent's end and restores. Async-signal-safe calls only.
[[noreturn]] void guard(int terminal_fd, int pipe_fd, const termios& saved) {
  // Ctrl-C of the terminal's group, hang-ups and a background process's SIGTTOU must not end or stop it.
  for (int signo : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTTOU, SIGTTIN, SIGTSTP, SIGPIPE}) signal(signo, SIG_IGN);
  // Nothing else of the parent may be kept open here: a pipe on its standard output must see its end.
  int keep_terminal = terminal_fd;
  if (terminal_fd <= 2) keep_terminal = fcntl(terminal_fd, F_DUPFD, 3);
  for (int fd = 0; fd <= 2; ++fd) close(fd);
  char byte = 0;
  ssize_t count;
  do {
    count = read(pipe_fd, &byte, 1);
  } while (count < 0 && errno == EINTR);
  if (count == 0 && keep_terminal >= 0) tcsetattr(keep_terminal, TCSANOW, &saved);
  _exit(0);
}

}  // namespace

Result<std::unique_ptr<RawTerminal>> RawTerminal::create(int terminal_fd) {
  termios saved{};
  if (tcgetattr(terminal_fd, &saved) != 0) return fail(Error::from_errno(errno, "cannot read the terminal's settings"));
  std::unique_ptr<RawTerminal> terminal(new RawTerminal(terminal_fd, saved));
  RHEA_TRY(terminal->start_guardian());
  terminal->enter_raw();
  return terminal;
}

Status RawTerminal::start_guardian() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return fail(Error::from_errno(errno, "cannot create a pipe"));
  base::UniqueFd reading(ends[0]);
  guardian_pipe_.reset(ends[1]);
  guardian_ = fork();
  if (guardian_ < 0) return fail(Error::from_errno(errno, "cannot start the terminal's guardian"));
  if (guardian_ == 0) {
    close(ends[1]);
    guard(fd_, ends[0], saved_);
  }
  return {};
}

void RawTerminal::enter_raw() {
  termios raw = saved_;
  cfmakeraw(&raw);
  tcsetattr(fd_, TCSANOW, &raw);
}

RawTerminal::~RawTerminal() {
  tcsetattr(fd_, TCSADRAIN, &saved_);
  if (guardian_ > 0) {
    const char done = 'x';
    [[maybe_unused]] ssize_t written = write(guardian_pipe_.get(), &done, 1);
    guardian_pipe_.reset();
    while (waitpid(guardian_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

}  // namespace rhea::app
