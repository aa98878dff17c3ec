// SPDX-License-Identifier: Apache-2.0
// Sockets of the gdb server.
#include "debug/gdb_server.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/fd.h"
#include "debug/session.h"

namespace rhea::debug {

namespace {

struct Listener {
  base::UniqueFd fd;
  std::string address;
  std::string unix_path;  // to be removed at the end
};

Result<base::UniqueFd> bind_and_listen(base::UniqueFd fd, const sockaddr* address, socklen_t length,
                                       std::string_view what) {
  if (bind(fd.get(), address, length) != 0)
    return fail(Error::from_errno(errno, fmt::format("cannot bind the gdb server to {}", what)));
  if (listen(fd.get(), 1) != 0) return fail(Error::from_errno(errno, fmt::format("cannot listen on {}", what)));
  return fd;
}

// A socket file that nobody listens on is left from an earlier run.
void remove_stale_socket(const sockaddr_un& address) {
  struct stat info{};
  if (lstat(address.sun_path, &info) != 0 || !S_ISSOCK(info.st_mode)) return;
  base::UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (probe && connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
      errno == ECONNREFUSED)
    unlink(address.sun_path);
}

Result<Listener> listen_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return fail(ErrorCode::kInvalidArgument, fmt::format("the gdb socket path '{}' is empty or longer than {} bytes",
                                                         path, sizeof address.sun_path - 1));
  std::memcpy(address.sun_path, path.data(), path.size());
  remove_stale_socket(address);
  base::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail(Error::from_errno(errno, "cannot make a unix socket for gdb"));
  // Before bind(), so that the file never exists with wider permissions. [unix(7)]
  fchmod(fd.get(), 0600);
  Listener listener{.fd = {}, .address = "unix:" + path, .unix_path = path};
  listener.fd = RHEA_TRY(
      bind_and_listen(std::move(fd), reinterpret_cast<const sockaddr*>(&address), sizeof address, listener.address));
  return listener;
}

struct AddressInfoDeleter {
  void operator()(addrinfo* info) const { freeaddrinfo(info); }
};

Result<Listener> listen_tcp(std::string_view text) {
  const size_t colon = text.rfind(':');
  std::string host(text.substr(0, colon == text.npos ? 0 : colon));
  std::string port(colon == text.npos ? "" : text.substr(colon + 1));
  if (port.empty() || port.size() > 5 || port.find_first_not_of("0123456789") != port.npos || std::stoul(port) > 65535)
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("gdb address 'tcp:{}' is not of the form tcp:HOST:PORT", text));
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (host.empty()) host = "localhost";

  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0)
    return fail(ErrorCode::kNotFound, fmt::format("cannot resolve the gdb host '{}': {}", host, gai_strerror(error)));
  std::unique_ptr<addrinfo, AddressInfoDeleter> owner(found);

  base::UniqueFd fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail(Error::from_errno(errno, "cannot make a TCP socket for gdb"));
  int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  Listener listener;
  listener.fd =
      RHEA_TRY(bind_and_listen(std::move(fd), found->ai_addr, found->ai_addrlen, fmt::format("tcp:{}", text)));

  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  std::array<char, NI_MAXSERV> service{};
  if (getsockname(listener.fd.get(), reinterpret_cast<sockaddr*>(&bound), &length) == 0 &&
      getnameinfo(reinterpret_cast<sockaddr*>(&bound), length, nullptr, 0, service.data(), service.size(),
                  NI_NUMERICSERV) == 0)
    port = service.data();
  listener.address =
      host.find(':') == host.npos ? fmt::format("tcp:{}:{}", host, port) : fmt::format("tcp:[{}]:{}", host, port);
  return listener;
}

Result<Listener> listen_on(std::string_view address) {
  constexpr std::string_view kTcp = "tcp:", kUnix = "unix:";
  if (address.starts_with(kTcp)) return listen_tcp(address.substr(kTcp.size()));
  if (address.starts_with(kUnix)) return listen_unix(std::string(address.substr(kUnix.size())));
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("gdb address '{}' is neither tcp:HOST:PORT nor unix:PATH", address));
}

}  // namespace

// Held by shared_ptr, so that a notice from a vCPU thread still on its way finds that the server has gone.
class GdbServer::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(base::EventLoop& loop, DebugTarget& target, Listener listener)
      : loop_(loop), target_(target), listener_(std::move(listener)) {}

  Status start() {
    return loop_.add_fd(listener_.fd.get(), EPOLLIN, [this](uint32_t) { accept_connection(); });
  }

  void shut_down() {
    disconnect();
    loop_.remove_fd(listener_.fd.get());
    listener_.fd.reset();
    if (!listener_.unix_path.empty()) unlink(listener_.unix_path.c_str());
    closed_ = true;
  }

  void post_stopped(const StopEvent& event) {
    loop_.post([weak = weak_from_this(), event] {
      if (auto self = weak.lock(); self && !self->closed_) self->stopped(event);
    });
  }

  const std::string& address() const { return listener_.address; }
  bool connected() const { return static_cast<bool>(connection_); }

 private:
  void accept_connection() {
    base::UniqueFd fd(accept4(listener_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    // One debugger at a time: a second one is hung up on. A session that still waits for the VM to stop counts.
    if (!fd || session_) return;
    int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // fails on unix sockets, which need it not
    connection_ = std::move(fd);
    events_ = EPOLLIN;
    if (!loop_.add_fd(connection_.get(), events_, [this](uint32_t events) { on_events(events); })) {
      connection_.reset();
      return;
    }
    session_ = std::make_unique<Session>(target_);
  }

  void on_events(uint32_t events) {
    if (events & EPOLLIN) {
      if (!read_some()) return disconnect();
    } else if (events & (EPOLLHUP | EPOLLERR)) {
      return disconnect();
    }
    pump();
  }

  // False when the peer has gone.
  bool read_some() {
    std::array<uint8_t, kReadAhead> buffer;
    if (held_.size() >= buffer.size()) return true;
    const ssize_t count = read(connection_.get(), buffer.data(), buffer.size() - held_.size());
    if (count == 0) return false;
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    held_.insert(held_.end(), buffer.begin(), buffer.begin() + count);
    return true;
  }

  // Moves bytes both ways as far as they go, then asks the loop for what is missing.
  void pump() {
    size_t before;
    do {
      before = held_.size() + session_->output().size();
      const size_t taken = session_->receive(held_);
      held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(taken));
      if (!write_some()) return disconnect();
      if (session_->finished() && session_->output().empty()) return disconnect();
      // Output that has gone makes room for packets that wait.
    } while (held_.size() + session_->output().size() < before);
    uint32_t wanted = 0;
    if (held_.size() < kReadAhead) wanted |= EPOLLIN;
    if (!session_->output().empty()) wanted |= EPOLLOUT;
    if (wanted != events_ && loop_.modify_fd(connection_.get(), wanted)) events_ = wanted;
  }

  bool write_some() {
    while (!session_->output().empty()) {
      const std::string_view output = session_->output();
      const ssize_t count = send(connection_.get(), output.data(), output.size(), MSG_NOSIGNAL);
      if (count < 0) return errno == EAGAIN || errno == EINTR;
      session_->take_output(static_cast<size_t>(count));
    }
    return true;
  }

  void stopped(const StopEvent& event) {
    if (!session_) return;
    session_->on_stopped(event);
    if (connection_)
      pump();
    else
      session_.reset();  // its last act: the VM runs on without breakpoints
  }

  void disconnect() {
    if (!connection_) return;
    loop_.remove_fd(connection_.get());
    connection_.reset();
    held_.clear();
    session_->close();
    if (!session_->waits_for_stop()) session_.reset();
  }

  static constexpr size_t kReadAhead = 4096;

  base::EventLoop& loop_;
  DebugTarget& target_;
  Listener listener_;
  base::UniqueFd connection_;
  uint32_t events_ = 0;
  std::vector<uint8_t> held_;  // read, not yet taken by the session; at most kReadAhead
  std::unique_ptr<Session> session_;
  bool closed_ = false;
};

Result<std::unique_ptr<GdbServer>> GdbServer::create(base::EventLoop& loop, DebugTarget& target,
                                                     std::string_view address) {
  Listener listener = RHEA_TRY(listen_on(address));
  auto impl = std::make_shared<Impl>(loop, target, std::move(listener));
  RHEA_TRY(impl->start());
  return std::unique_ptr<GdbServer>(new GdbServer(std::move(impl)));
}

GdbServer::~GdbServer() { impl_->shut_down(); }

void GdbServer::on_stopped(const StopEvent& event) { impl_->post_stopped(event); }

const std::string& GdbServer::address() const { return impl_->address(); }

bool GdbServer::connected() const { return impl_->connected(); }

}  // namespace rhea::debug
