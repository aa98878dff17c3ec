// SPDX-License-Identifier: Apache-2.0
// The user-mode network: libslirp on a thread of its own, which sleeps in poll(2).
#include <arpa/inet.h>
#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <slirp/libslirp.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <deque>
#include <future>
#include <mutex>
#include <thread>

#include "base/fd.h"
#include "net/coalescer.h"
#include "net/network.h"

namespace rhea::net {
namespace {

constexpr size_t kMaximumQueuedFrames = 1024;
constexpr uint32_t kIdleMilliseconds = 60000;

int64_t now_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// Host `host` of the network with this index: 10.0.2.x for the first.
in_addr address(unsigned index, unsigned host) { return {htonl(0x0a000200 + (index << 8) + host)}; }
in6_addr address6(unsigned index, unsigned host) {
  in6_addr result{};
  result.s6_addr[0] = 0xfe;
  result.s6_addr[1] = 0xc0;
  result.s6_addr[7] = static_cast<uint8_t>(index);
  result.s6_addr[15] = static_cast<uint8_t>(host);
  return result;
}

struct Timer {
  SlirpTimerCb callback;
  void* argument;
  int64_t expires_ms = -1;  // -1: not armed
};

class UserNetwork final : public Network {
 public:
  ~UserNetwork() override {
    quit_ = true;
    wake();
    if (thread_.joinable()) thread_.join();
    if (slirp_) slirp_cleanup(slirp_);
  }

  Status open(const UserNetworkOptions& options) {
    wake_ = base::UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_) return fail(Error::from_errno(errno, "creating an eventfd"));
    SlirpConfig config{};
    config.version = 4;
    config.in_enabled = true;
    const auto own = [&options](unsigned host) { return address(options.index, host); };
    config.vnetwork = own(0);
    config.vnetmask = in_addr{htonl(0xffffff00)};
    config.vhost = own(2);
    config.vdhcp_start = guest_ = own(15);
    config.vnameserver = own(3);
    config.in6_enabled = true;
    config.vprefix_addr6 = address6(options.index, 0);
    config.vprefix_len = 64;
    config.vhost6 = address6(options.index, 2);
    config.vnameserver6 = address6(options.index, 3);
    config.if_mtu = config.if_mru = options.mtu;
    config.vhostname = options.guest_name.c_str();
    slirp_ = slirp_new(&config, &kCallbacks, this);
    if (!slirp_) return fail(ErrorCode::kInternal, "the user-mode network cannot be set up");
    for (const Forward& forward : options.forwards) RHEA_TRY(add(forward));
    // Waited for: once the process confines all of its threads, this one could not confine itself any more.
    std::promise<void> started;
    thread_ = std::thread([this, &started, on_start = options.on_thread_start] {
      if (on_start) on_start();
      started.set_value();
      run();
    });
    pthread_setname_np(thread_.native_handle(), "rhea-net");
    started.get_future().wait();
    return {};
  }

  void set_receiver(Receiver receiver) override {
    std::lock_guard lock(receiver_mutex_);
    receiver_ = std::move(receiver);
  }

  // A long TCP segment is read like a short one, but the sums are looked at.
  Offloads sends() const override { return {.tcp4 = true, .tcp6 = true, .congestion = true}; }

  void set_receives(const Offloads& taken) override {
    std::lock_guard lock(receiver_mutex_);
    receives_ = taken;
  }

  void send(std::span<const std::byte> frame, const FrameOffload&) override {
    if (frame.size() < kMinimumFrameBytes || frame.size() > kMaximumFrameBytes) return;
    {
      std::lock_guard lock(outgoing_mutex_);
      if (outgoing_.size() >= kMaximumQueuedFrames) return;
      outgoing_.emplace_back(frame.begin(), frame.end());
      if (outgoing_.size() > 1) return;  // the thread is on its way
    }
    wake();
  }

 private:
  static UserNetwork& self(void* opaque) { return *static_cast<UserNetwork*>(opaque); }
  static ssize_t send_packet(const void* data, size_t bytes, void* opaque) {
    UserNetwork& network = self(opaque);
    std::lock_guard lock(network.receiver_mutex_);
    network.coalescer_.add({static_cast<const std::byte*>(data), bytes}, network.receives_);
    return static_cast<ssize_t>(bytes);
  }
  static void guest_error(const char*, void*) {}  // a guest may send what it likes
  static int64_t clock_get_ns(void*) { return now_ns(); }
  static void* timer_new(SlirpTimerCb callback, void* argument, void* opaque) {
    return self(opaque).timers_.emplace_back(new Timer{callback, argument});
  }
  static void timer_free(void* timer, void* opaque) {
    std::erase(self(opaque).timers_, static_cast<Timer*>(timer));
    delete static_cast<Timer*>(timer);
  }
  static void timer_mod(void* timer, int64_t expires_ms, void*) { static_cast<Timer*>(timer)->expires_ms = expires_ms; }
  static void no_poll_fd(int, void*) {}  // poll(2) is told anew each time
  static void notify(void* opaque) { self(opaque).wake(); }
  static constexpr SlirpCb kCallbacks = {.send_packet = send_packet,
                                         .guest_error = guest_error,
                                         .clock_get_ns = clock_get_ns,
                                         .timer_new = timer_new,
                                         .timer_free = timer_free,
                                         .timer_mod = timer_mod,
                                         .register_poll_fd = no_poll_fd,
                                         .unregister_poll_fd = no_poll_fd,
                                         .notify = notify};

  static int add_poll(int fd, int events, void* opaque) {
    auto& fds = self(opaque).fds_;
    short wanted = 0;
    if (events & SLIRP_POLL_IN) wanted |= POLLIN;
    if (events & SLIRP_POLL_OUT) wanted |= POLLOUT;
    if (events & SLIRP_POLL_PRI) wanted |= POLLPRI;
    fds.push_back({fd, wanted, 0});
    return static_cast<int>(fds.size() - 1);
  }
  static int get_events(int index, void* opaque) {
    const short got = self(opaque).fds_[static_cast<size_t>(index)].revents;
    int events = 0;
    if (got & POLLIN) events |= SLIRP_POLL_IN;
    if (got & POLLOUT) events |= SLIRP_POLL_OUT;
    if (got & POLLPRI) events |= SLIRP_POLL_PRI;
    if (got & POLLERR) events |= SLIRP_POLL_ERR;
    if (got & POLLHUP) events |= SLIRP_POLL_HUP;
    return events;
  }

  Status add(const Forward& forward) {
    in_addr host{};
    if (inet_pton(AF_INET, forward.host_address.c_str(), &host) != 1)
      return fail(ErrorCode::kInvalidArgument, fmt::format("'{}' is no IPv4 address", forward.host_address));
    if (slirp_add_hostfwd(slirp_, forward.udp, host, forward.host_port, guest_, forward.guest_port) == 0) return {};
    return fail(Error::from_errno(errno, fmt::format("cannot forward {} port {} of {}", forward.udp ? "UDP" : "TCP",
                                                     forward.host_port, forward.host_address)));
  }

  void wake() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof one);
  }

  void run() {
    while (!quit_) {
      fds_.assign(1, {wake_.get(), POLLIN, 0});
      uint32_t timeout = kIdleMilliseconds;
      slirp_pollfds_fill(slirp_, &timeout, add_poll, this);
      const int64_t now_ms = now_ns() / 1'000'000;
      for (const Timer* timer : timers_)
        if (timer->expires_ms >= 0)
          timeout = static_cast<uint32_t>(std::clamp<int64_t>(timer->expires_ms - now_ms, 0, timeout));
      const int ready = poll(fds_.data(), fds_.size(), static_cast<int>(timeout));
      if (fds_[0].revents) {
        uint64_t count = 0;
        [[maybe_unused]] const ssize_t got = read(wake_.get(), &count, sizeof count);
      }
      slirp_pollfds_poll(slirp_, ready < 0, get_events, this);
      take_outgoing();
      run_timers();
      std::lock_guard lock(receiver_mutex_);
      coalescer_.flush();
    }
  }

  void take_outgoing() {
    std::deque<std::vector<std::byte>> frames;
    {
      std::lock_guard lock(outgoing_mutex_);
      frames.swap(outgoing_);
    }
    for (const auto& frame : frames)
      slirp_input(slirp_, reinterpret_cast<const uint8_t*>(frame.data()), static_cast<int>(frame.size()));
  }

  void run_timers() {
    const int64_t now_ms = now_ns() / 1'000'000;
    const std::vector<Timer*> all = timers_;
    for (Timer* timer : all) {
      if (timer->expires_ms < 0 || timer->expires_ms > now_ms) continue;
      timer->expires_ms = -1;
      timer->callback(timer->argument);
    }
  }

  base::UniqueFd wake_;
  Slirp* slirp_ = nullptr;
  in_addr guest_{};
  std::atomic<bool> quit_{false};
  std::mutex outgoing_mutex_, receiver_mutex_;
  std::deque<std::vector<std::byte>> outgoing_;
  Receiver receiver_;  // under receiver_mutex_, as are the next two
  Offloads receives_;
  Coalescer coalescer_{[this](std::span<const std::byte> frame, const FrameOffload& offload) {
    if (receiver_) receiver_(frame, offload);  // what does not fit is lost
  }};
  std::vector<Timer*> timers_;  // the thread's from here on
  std::vector<pollfd> fds_;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Network>> create_user_network(const UserNetworkOptions& options) {
  auto network = std::make_unique<UserNetwork>();
  RHEA_TRY(network->open(options));
  return network;
}

}  // namespace rhea::net
