// SPDX-License-Identifier: Apache-2.0
#include "provision/program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
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

// SIGINT and SIGQUIT are the program's affair while this lives.
class IgnoreInterrupts {
 public:
  IgnoreInterrupts() {
    struct sigaction ignore{};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGINT, &ignore, &interrupt_);
    sigaction(SIGQUIT, &ignore, &quit_);
  }
  ~IgnoreInterrupts() {
    sigaction(SIGINT, &interrupt_, nullptr);
    sigaction(SIGQUIT, &quit_, nullptr);
  }
  IgnoreInterrupts(const IgnoreInterrupts&) = delete;
  IgnoreInterrupts& operator=(const IgnoreInterrupts&) = delete;

 private:
  struct sigaction interrupt_{}, quit_{};
};

class SpawnSettings {
 public:
  explicit SpawnSettings(int output) {
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, output, STDERR_FILENO);
    posix_spawnattr_init(&attributes);
    sigset_t defaults;
    sigemptyset(&defaults);
    for (const int number : {SIGINT, SIGQUIT, SIGPIPE}) sigaddset(&defaults, number);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
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

void read_lines(int fd, const std::function<void(std::string_view)>& on_line) {
  std::string line;
  char buffer[4096];
  for (;;) {
    const ssize_t count = read(fd, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    for (const char c : std::string_view(buffer, static_cast<size_t>(count))) {
      if (c != '\n' && c != '\r') line += c;
      if ((c != '\n' && c != '\r') && line.size() < kLongestLine) continue;
      if (!line.empty()) on_line(line);
      line.clear();
    }
  }
  if (!line.empty()) on_line(line);
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
  const IgnoreInterrupts guard;
  pid_t child = 0;
  {
    const SpawnSettings settings(writing.get());
    const int error = posix_spawn(&child, path.c_str(), &settings.files, &settings.attributes, pointers(words).data(),
                                  pointers(variables).data());
    if (error != 0) return fail(Error::from_errno(error, fmt::format("starting {}", path)));
  }
  writing.reset();
  read_lines(reading.get(), on_line);
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return fail(Error::from_errno(errno, fmt::format("waiting for {}", path)));
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace rhea::provision
