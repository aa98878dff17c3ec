// SPDX-License-Identifier: Apache-2.0
// A tap device of the host's: frames through /dev/net/tun, with what is left undone in them beside each.
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>

#include "base/fd.h"
#include "net/network.h"

namespace rhea::net {
namespace {

constexpr int kFramesAtOnce = 64;  // then the loop's other callbacks have their turn

class TapNetwork final : public Network {
 public:
  explicit TapNetwork(base::EventLoop& loop) : loop_(loop) {}
  ~TapNetwork() override {
    if (watched_.exchange(false)) loop_.remove_fd(fd_.get());
  }

  Status open(const TapOptions& options);

  Offloads sends() const override {
    return {.checksum = true, .tcp4 = true, .tcp6 = true, .udp = long_datagrams_, .congestion = true};
  }

  void set_receives(const Offloads& taken) override {
    unsigned flags = 0;
    if (taken.checksum) flags |= TUN_F_CSUM;
    if (taken.checksum && taken.tcp4) flags |= TUN_F_TSO4;
    if (taken.checksum && taken.tcp6) flags |= TUN_F_TSO6;
    if ((flags & (TUN_F_TSO4 | TUN_F_TSO6)) && taken.congestion) flags |= TUN_F_TSO_ECN;
    if (taken.checksum && taken.udp && long_datagrams_) flags |= kLongDatagrams;
    [[maybe_unused]] const int result = ioctl(fd_.get(), TUNSETOFFLOAD, static_cast<unsigned long>(flags));
  }

  void set_receiver(Receiver receiver) override {
    const std::lock_guard lock(mutex_);
    receiver_ = std::move(receiver);
  }

  void receive_more() override {
    if (held_back_.exchange(false)) [[maybe_unused]]
      const Status resumed = loop_.modify_fd(fd_.get(), EPOLLIN);
  }

  void send(std::span<const std::byte> frame, const FrameOffload& offload) override {
    FrameOffload head = offload;
    const iovec parts[2] = {{&head, sizeof head}, {const_cast<std::byte*>(frame.data()), frame.size()}};
    // What the kernel refuses (an interface that is down, a full queue, an offload that it reads otherwise) is lost.
    [[maybe_unused]] const ssize_t written = writev(fd_.get(), parts, 2);
  }

 private:
  static constexpr unsigned kLongDatagrams = 0x20 | 0x40;  // TUN_F_USO4, TUN_F_USO6: from Linux 6.2 on

  Status attach(const std::string& wanted);
  Status join_bridge(const TapOptions& options);
  void configure(const TapOptions& options);
  void read_frames();

  base::EventLoop& loop_;
  base::UniqueFd fd_, control_;
  std::string name_;
  bool long_datagrams_ = false;
  std::atomic<bool> watched_{false};
  std::mutex mutex_;
  Receiver receiver_;
  std::atomic<bool> held_back_{false};
  std::vector<std::byte> buffer_ = std::vector<std::byte>(sizeof(FrameOffload) + kMaximumFrameBytes);
};

ifreq request_for(const std::string& name) {
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  return request;
}

std::string by_hand(const std::string& name) {
  return fmt::format("as root once: ip tuntap add {} mode tap user USER && ip link set {} up", name, name);
}

Status check_name(const std::string& name, std::string_view what) {
  if (!name.empty() && name.size() < IFNAMSIZ && name.find_first_of("/ %") == std::string::npos) return {};
  return fail(
      ErrorCode::kInvalidArgument,
      fmt::format("'{}' cannot be the name of a {}: it has 1 to 15 characters, and no space or slash", name, what));
}

// The tap device `wanted`, or a new one whose name the kernel makes ("rhea%d").
Status TapNetwork::attach(const std::string& wanted) {
  fd_ = base::UniqueFd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd_) {
    if (errno == ENOENT || errno == ENXIO || errno == ENODEV)
      return fail(ErrorCode::kNotFound, "this host has no tap devices: /dev/net/tun is missing (modprobe tun)");
    return fail(Error::from_errno(errno, "opening /dev/net/tun for a tap device"));
  }
  ifreq request = request_for(wanted);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  int result = ioctl(fd_.get(), TUNSETIFF, &request);
  if (result != 0 && errno == EINVAL) {  // made for several queues: it takes one, too
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
    result = ioctl(fd_.get(), TUNSETIFF, &request);
  }
  if (result == 0) {
    name_ = request.ifr_name;
    return {};
  }
  switch (errno) {
    case EPERM:
      return fail(ErrorCode::kPermissionDenied,
                  fmt::format("no permission for the tap device {}: {}", wanted,
                              wanted.contains('%') ? "a new one needs root (CAP_NET_ADMIN); make one, put it into the "
                                                     "bridge, and use --net tap=NAME"
                                                   : by_hand(wanted)));
    case EBUSY: return fail(ErrorCode::kBusy, fmt::format("the tap device {} is in use by another program", wanted));
    case EINVAL:
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("{} is an interface of another kind, not a tap device", wanted));
    default: return fail(Error::from_errno(errno, fmt::format("using the tap device {}", wanted)));
  }
}

// An interface of the host's with this address: on a bridge, it would take our frames.
std::optional<std::string> interface_with_address(int control, const std::array<uint8_t, 6>& address) {
  struct Free {
    void operator()(struct if_nameindex* names) const { if_freenameindex(names); }
  };
  const std::unique_ptr<struct if_nameindex, Free> names(if_nameindex());
  for (const auto* entry = names.get(); entry && entry->if_name; ++entry) {
    ifreq request = request_for(entry->if_name);
    if (ioctl(control, SIOCGIFHWADDR, &request) == 0 &&
        std::memcmp(request.ifr_hwaddr.sa_data, address.data(), address.size()) == 0)
      return entry->if_name;
  }
  return std::nullopt;
}

// The tap's own address is the guest's with another first byte: above those of real cards, because a bridge takes the
// lowest of its ports' as its own.
Status TapNetwork::join_bridge(const TapOptions& options) {
  auto mac = options.guest_mac;
  mac[0] = 0xfe;
  if (const auto port = interface_with_address(control_.get(), mac))
    return fail(
        ErrorCode::kBusy,
        fmt::format("a machine with the address {:02x} is on the bridge {} already ({}): give this one a --name "
                    "of its own, or an address with mac=",
                    fmt::join(options.guest_mac, ":"), options.bridge, *port));
  ifreq hardware = request_for(name_);
  hardware.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  std::memcpy(hardware.ifr_hwaddr.sa_data, mac.data(), mac.size());
  if (ioctl(control_.get(), SIOCSIFHWADDR, &hardware) != 0)
    return fail(Error::from_errno(errno, fmt::format("setting the address of {}", name_)));
  ifreq request = request_for(options.bridge);
  request.ifr_ifindex = static_cast<int>(if_nametoindex(name_.c_str()));
  if (ioctl(control_.get(), SIOCBRADDIF, &request) == 0) return {};
  if (errno == EOPNOTSUPP || errno == EINVAL)
    return fail(ErrorCode::kInvalidArgument, fmt::format("the interface {} is no bridge", options.bridge));
  return fail(Error::from_errno(errno, fmt::format("putting a tap device into the bridge {}", options.bridge)));
}

// What takes rights that the owner of a tap device may lack is left as it is then: its administrator has seen to it.
void TapNetwork::configure(const TapOptions& options) {
  ifreq request = request_for(name_);
  if (ioctl(control_.get(), SIOCGIFMTU, &request) == 0 && request.ifr_mtu != options.mtu) {
    request.ifr_mtu = options.mtu;
    [[maybe_unused]] const int result = ioctl(control_.get(), SIOCSIFMTU, &request);
  }
  request = request_for(name_);
  if (ioctl(control_.get(), SIOCGIFFLAGS, &request) == 0 && !(request.ifr_flags & IFF_UP)) {
    request.ifr_flags |= IFF_UP;
    [[maybe_unused]] const int result = ioctl(control_.get(), SIOCSIFFLAGS, &request);
  }
}

Status TapNetwork::open(const TapOptions& options) {
  const bool bridged = !options.bridge.empty();
  RHEA_TRY(check_name(bridged ? options.bridge : options.interface, bridged ? "bridge" : "tap device"));
  if (bridged && if_nametoindex(options.bridge.c_str()) == 0)
    return fail(ErrorCode::kNotFound, fmt::format("there is no bridge {0} (as root: ip link add {0} type bridge && ip "
                                                  "link set {0} up)",
                                                  options.bridge));
  control_ = base::UniqueFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!control_) return fail(Error::from_errno(errno, "creating a socket"));
  RHEA_TRY(attach(bridged ? "rhea%d" : options.interface));
  if (bridged) RHEA_TRY(join_bridge(options));
  configure(options);
  control_.reset();
  const int header_bytes = sizeof(FrameOffload);
  if (ioctl(fd_.get(), TUNSETVNETHDRSZ, &header_bytes) != 0)
    return fail(Error::from_errno(errno, fmt::format("setting up the tap device {}", name_)));
  long_datagrams_ = ioctl(fd_.get(), TUNSETOFFLOAD, static_cast<unsigned long>(TUN_F_CSUM | kLongDatagrams)) == 0;
  set_receives({});
  RHEA_TRY(loop_.add_fd(fd_.get(), EPOLLIN, [this](uint32_t) { read_frames(); }));
  watched_ = true;
  return {};
}

void TapNetwork::read_frames() {
  for (int i = 0; i < kFramesAtOnce; ++i) {
    const ssize_t count = read(fd_.get(), buffer_.data(), buffer_.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      // Level-triggered: an interface that somebody took away would wake us for ever.
      if (count < 0 && errno != EAGAIN && watched_.exchange(false)) loop_.remove_fd(fd_.get());
      return;
    }
    if (static_cast<size_t>(count) < sizeof(FrameOffload) + kMinimumFrameBytes) continue;
    FrameOffload offload;
    std::memcpy(&offload, buffer_.data(), sizeof offload);
    const auto frame =
        std::span<const std::byte>(buffer_).subspan(sizeof offload, static_cast<size_t>(count) - sizeof offload);
    const std::lock_guard lock(mutex_);
    if (!receiver_ || receiver_(frame, offload)) continue;
    // The kernel's queue holds what comes, up to its length, and its senders feel it.
    held_back_ = true;
    [[maybe_unused]] const Status paused = loop_.modify_fd(fd_.get(), 0);
    return;
  }
}

}  // namespace

Result<std::unique_ptr<Network>> create_tap_network(base::EventLoop& loop, const TapOptions& options) {
  auto network = std::make_unique<TapNetwork>(loop);
  RHEA_TRY(network->open(options));
  return network;
}

}  // namespace rhea::net
