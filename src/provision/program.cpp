// SPDX-License-Identifier: Apache-2.0
#include "provision/program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/fd.h"
#include "base/strings.h"

extern char** environ;

namespace rhea::provision {
namespace {

// A user's PATH often lacks the folders of mke2fs and the like.
std::string search_path() {
  const char* path = std::getenv("PATH");
  return fmt::format("{}:/usr/sbin:/sbin:/usr/bin:/bin", path ? path : "");
}

std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return access(name.c_str(), X_OK) == 0 ? name : "";
  const std::string path = search_path();
  for (const std::string_view folder : base::split(path, ':')) {
    if (folder.empty()) continue;
    std::string candidate = fmt::format("{}/{}", folder, name);
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return "";
}

// The environment with a language that messages can be recognised in, and the PATH used here.
std::vector<std::string> environment() {
  std::vector<std::string> result;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text = *entry;
    if (!text.starts_with("PATH=") && !text.starts_with("LC_ALL=") && !text.starts_with("LANGUAGE="))
      result.emplace_back(text);
  }
  result.push_back("PATH=" + search_path());
  result.push_back("LC_ALL=C.UTF-8");
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  for (std::string& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

// What asks this process to end is taken as a descriptor while this lives, and does not end it.
class SignalsAside {
 public:
  static Result<SignalsAside> take() {
    SignalsAside aside;
    sigset_t wanted;
    sigemptyset(&wanted);
    for (const int number : {SIGINT, SIGQUIT, SIGTERM, SIGHUP}) sigaddset(&wanted, number);
    aside.fd_ = base::UniqueFd(signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!aside.fd_) return fail(Error::from_errno(errno, "creating a signalfd"));
    pthread_sigmask(SIG_BLOCK, &wanted, &aside.before_);
    return aside;
  }
  SignalsAside(SignalsAside&& other) noexcept = default;
  ~SignalsAside() {
    if (!fd_) return;
    while (next() != 0) continue;  // one that came last has been answered by now
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  int fd() const { return fd_.get(); }
  const sigset_t& before() const { return before_; }
  int next() const {  // 0: none has come
    signalfd_siginfo info{};
    return read(fd_.get(), &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
  }

 private:
  SignalsAside() = default;
  base::UniqueFd fd_;
  sigset_t before_{};
};

class SpawnSettings {
 public:
  SpawnSettings(int output, const sigset_t& mask) {
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, output, STDERR_FILENO);
    posix_spawnattr_init(&attributes);
    sigset_t defaults;
    sigemptyset(&defaults);
    for (const int number : {SIGINT, SIGQUIT, SIGPIPE}) sigaddset(&defaults, number);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setsigmask(&attributes, &mask);
    // A group of its own: what it starts is reached with it.
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
};

// A program may print without end and without a line's end: longer lines come in pieces.
constexpr size_t kLongestLine = 4096;

class Lines {
 public:
  explicit Lines(const std::function<void(std::string_view)>& on_line) : on_line_(on_line) {}
  void take(std::string_view text) {
    for (const char c : text) {
      if (c != '\n' && c != '\r') line_ += c;
      if ((c != '\n' && c != '\r') && line_.size() < kLongestLine) continue;
      end();
    }
  }
  void end() {
    if (!line_.empty()) on_line_(line_);
    line_.clear();
  }

 private:
  const std::function<void(std::string_view)>& on_line_;
  std::string line_;
};

bool has_ended(pid_t child) {
  siginfo_t info{};
  return waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == child;
}

// Reads until nobody writes any more; after a signal, until the program itself has ended: what it started may not heed
// it. Returns the last signal that came and was handed on to the group, 0 for none.
int attend(int output, pid_t group, const SignalsAside& signals, const std::function<void(std::string_view)>& on_line) {
  Lines lines(on_line);
  int signalled = 0;
  char buffer[4096];
  for (;;) {
    pollfd fds[2] = {{output, POLLIN, 0}, {signals.fd(), POLLIN, 0}};
    if (signalled != 0 && has_ended(group)) break;
    if (poll(fds, 2, signalled != 0 ? 50 : -1) < 0 && errno != EINTR) break;
    while (const int number = signals.next()) {
      signalled = number;
      kill(-group, number);
    }
    if (!fds[0].revents) continue;
    const ssize_t count = read(output, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    lines.take({buffer, static_cast<size_t>(count)});
  }
  lines.end();
  return signalled;
}

}  // namespace

bool program_exists(const std::string& name) { return !find_program(name).empty(); }

Result<int> run_program(const std::vector<std::string>& argv, const std::function<void(std::string_view)>& on_line) {
  const std::string path = find_program(argv.front());
  if (path.empty()) return fail(ErrorCode::kNotFound, fmt::format("the program '{}' is not installed", argv.front()));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return fail(Error::from_errno(errno, "creating a pipe"));
  base::UniqueFd reading(ends[0]), writing(ends[1]);
  std::vector<std::string> words = argv, variables = environment();
  const SignalsAside signals = RHEA_TRY(SignalsAside::take());
  pid_t child = 0;
  {
    const SpawnSettings settings(writing.get(), signals.before());
    const int error = posix_spawn(&child, path.c_str(), &settings.files, &settings.attributes, pointers(words).data(),
                                  pointers(variables).data());
    if (error != 0) return fail(Error::from_errno(error, fmt::format("starting {}", path)));
  }
  writing.reset();
  const int signalled = attend(reading.get(), child, signals, on_line);
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return fail(Error::from_errno(errno, fmt::format("waiting for {}", path)));
  if (signalled != 0) {
    kill(-child, SIGKILL);  // what has outlived the program that was asked to end
    return 128 + signalled;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace rhea::provision
