// SPDX-License-Identifier: Apache-2.0
// Console input and output.
//
// Descriptors are used as they came, without O_NONBLOCK: the flag would belong to the terminal that the user's shell
// shares. Output is written in small pieces after poll() says that it will not block.
#include "app/console.h"

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <string_view>

namespace rhea::app {
namespace {

constexpr std::byte kEscape{0x01};  // Ctrl-A
constexpr size_t kInputChunkBytes = 4096, kInputBacklogBytes = 64 * 1024;
constexpr size_t kOutputChunkBytes = 4096, kOutputBacklogBytes = 256 * 1024;
constexpr std::string_view kHelp =
    "\r\nRhea: Ctrl-A x ends the virtual machine, Ctrl-A h shows this help, Ctrl-A Ctrl-A sends Ctrl-A.\r\n";

}  // namespace

Result<std::unique_ptr<Console>> Console::create(base::EventLoop& loop, Options options) {
  std::unique_ptr<Console> console(new Console(loop, std::move(options)));
  if (console->options_.input_fd >= 0) RHEA_TRY(console->watch_input());
  return console;
}

Console::~Console() {
  *self_ = nullptr;
  if (input_polled_) loop_.remove_fd(options_.input_fd);
  std::lock_guard lock(output_mutex_);
  if (output_watched_) loop_.remove_fd(options_.output_fd);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while (!output_.empty() && !output_broken_ && std::chrono::steady_clock::now() < deadline) {
    if (output_writable(100)) flush_locked();
  }
}

Status Console::watch_input() {
  auto watched = loop_.add_fd(options_.input_fd, EPOLLIN, [this](uint32_t) { read_input(); });
  if (watched) {
    input_polled_ = true;
    return {};
  }
  // Regular files and /dev/null cannot be watched: they are always ready, and read as the guest takes them.
  if (watched.error().code() != ErrorCode::kPermissionDenied) return watched;
  return {};
}

void Console::read_input() {
  if (input_ended_ || input_.size() >= kInputBacklogBytes) return;
  std::byte buffer[kInputChunkBytes];
  ssize_t count = read(options_.input_fd, buffer, sizeof buffer);
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (count <= 0) {
    input_ended_ = true;
    if (input_polled_) loop_.remove_fd(options_.input_fd);
    input_polled_ = false;
    return;
  }
  take_input(std::span(buffer, static_cast<size_t>(count)));
  feed_receiver();
}

void Console::take_input(std::span<const std::byte> data) {
  if (!options_.escape_keys) {
    input_.insert(input_.end(), data.begin(), data.end());
    return;
  }
  for (std::byte key : data) {
    if (!std::exchange(escape_pending_, false)) {
      if (key == kEscape) {
        escape_pending_ = true;
      } else {
        input_.push_back(key);
      }
      continue;
    }
    switch (static_cast<char>(key)) {
      case 'x':
      case 'X': options_.on_quit(); break;
      case 'h':
      case 'H':
      case '?': write(std::as_bytes(std::span(kHelp))); break;
      case '\x01': input_.push_back(key); break;
      default: break;
    }
  }
}

// Event loop's thread. Gives the guest what it takes; what it refuses stays here until on_receive_ready().
void Console::feed_receiver() {
  std::lock_guard lock(receiver_mutex_);
  while (receiver_ && !input_.empty()) {
    std::byte buffer[64];
    size_t count = std::min(input_.size(), sizeof buffer);
    std::copy_n(input_.begin(), count, buffer);
    size_t taken = receiver_->receive(std::span<const std::byte>(buffer, count));
    input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(taken));
    if (taken == 0) break;
  }
  pause_input(input_.size() >= kInputBacklogBytes);
  // An unwatched input has no events of its own: go on as long as the guest takes bytes.
  if (!input_polled_ && !input_ended_ && receiver_ && input_.empty()) {
    loop_.post([self = self_] {
      if (*self) (*self)->read_input();
    });
  }
}

void Console::pause_input(bool paused) {
  if (!input_polled_ || paused == input_paused_) return;
  input_paused_ = paused;
  [[maybe_unused]] Status changed = loop_.modify_fd(options_.input_fd, paused ? 0u : uint32_t{EPOLLIN});
}

void Console::set_receiver(devices::CharReceiver* receiver) {
  {
    std::lock_guard lock(receiver_mutex_);
    receiver_ = receiver;
  }
  if (receiver) on_receive_ready();
}

void Console::on_receive_ready() {
  loop_.post([self = self_] {
    if (!*self) return;
    Console& console = **self;
    console.feed_receiver();
  });
}

bool Console::output_writable(int timeout_ms) const {
  pollfd descriptor{.fd = options_.output_fd, .events = POLLOUT, .revents = 0};
  return poll(&descriptor, 1, timeout_ms) > 0;
}

void Console::flush_locked() {
  size_t done = 0;
  while (done < output_.size() && !output_broken_ && output_writable(0)) {
    ssize_t count =
        ::write(options_.output_fd, output_.data() + done, std::min(output_.size() - done, kOutputChunkBytes));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count < 0) output_broken_ = true;  // the reader is gone; the guest is not to suffer
    if (count > 0) done += static_cast<size_t>(count);
  }
  output_.erase(output_.begin(), output_.begin() + static_cast<std::ptrdiff_t>(done));
  if (output_broken_) output_.clear();
}

void Console::write(std::span<const std::byte> data) {
  if (options_.output_fd < 0) return;
  std::unique_lock lock(output_mutex_);
  if (output_broken_) return;
  output_.insert(output_.end(), data.begin(), data.end());
  flush_locked();
  // A reader that does not keep up slows the guest down, as flow control on a real line would.
  while (output_.size() > kOutputBacklogBytes && !output_broken_) {
    if (!waiting_.load()) {
      output_.clear();
      break;
    }
    lock.unlock();
    output_writable(20);
    lock.lock();
    flush_locked();
  }
  if (!output_.empty() && !output_watched_) {
    output_watched_ = true;
    loop_.post([self = self_] {
      if (*self) (*self)->watch_output();
    });
  }
}

// Event loop's thread: the rest goes out when the reader is ready for it.
void Console::watch_output() {
  auto flush = [this](uint32_t) {
    std::lock_guard lock(output_mutex_);
    flush_locked();
    if (!output_.empty()) return;
    loop_.remove_fd(options_.output_fd);
    output_watched_ = false;
  };
  if (!loop_.add_fd(options_.output_fd, EPOLLOUT, flush)) {
    std::lock_guard lock(output_mutex_);
    output_watched_ = false;
  }
}

}  // namespace rhea::app
