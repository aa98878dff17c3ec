// SPDX-License-Identifier: Apache-2.0
#include "machine/registry/networks.h"

#include <fmt/format.h>

#include "base/strings.h"

namespace rhea::machine {
namespace {

constexpr std::string_view kLinks[] = {"up", "down"};
constexpr io::PropertySpec kProperties[] = {
    {.name = "mac", .help = "address of the card, 52:48:45:01:02:03", .default_value = ""},
    {.name = "mtu",
     .type = io::PropertyType::kUint,
     .help = "longest packet",
     .default_value = "1500",
     .min = 576,
     .max = 65521},
    {.name = "queues",
     .type = io::PropertyType::kUint,
     .help = "pairs of queues",
     .default_value = "1",
     .min = 1,
     .max = 16},
    {.name = "link",
     .type = io::PropertyType::kChoice,
     .help = "whether the cable is plugged in",
     .default_value = "up",
     .choices = kLinks},
};
constexpr io::DeviceSpec kSpec = {.name = "net", .help = "virtio network card", .properties = kProperties};

// Six bytes in hexadecimal, with colons or hyphens between.
Result<std::array<uint8_t, 6>> parse_mac(std::string_view text) {
  std::array<uint8_t, 6> mac{};
  const auto bad = [text](std::string_view why) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("'{}' is no address of a card{}", text, why));
  };
  if (text.size() != 17) return bad(" (as 52:48:45:01:02:03)");
  for (size_t i = 0; i < mac.size(); ++i) {
    const std::string_view digits = text.substr(3 * i, 2);
    const bool separated = i + 1 == mac.size() || text[3 * i + 2] == ':' || text[3 * i + 2] == '-';
    if (!separated || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos)
      return bad(" (as 52:48:45:01:02:03)");
    mac[i] = static_cast<uint8_t>(RHEA_TRY(base::parse_unsigned(fmt::format("0x{}", digits))));
  }
  if (mac[0] & 1) return bad(": the first byte is odd, which makes it one of a group");
  if (mac == std::array<uint8_t, 6>{}) return bad(": all of it is zero");
  return mac;
}

uint32_t hash_of(std::string_view text) {  // FNV-1a
  uint32_t hash = 2166136261;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619;
  return hash;
}

}  // namespace

const io::DeviceSpec& network_spec() { return kSpec; }

Result<NetworkOptions> parse_network(std::string_view text) {
  NetworkOptions options;
  const size_t comma = std::min(text.find(','), text.size());
  const std::string_view kind = text.substr(0, comma), name = kind.substr(std::min(kind.find('='), kind.size()));
  if (kind == "user") {
    options.kind = NetworkOptions::Kind::kUser;
  } else if (kind.starts_with("tap=") || kind.starts_with("bridge=")) {
    options.kind = kind.starts_with("tap=") ? NetworkOptions::Kind::kTap : NetworkOptions::Kind::kBridge;
    options.interface = name.substr(1);
  } else {
    static constexpr std::string_view kKinds[] = {"user", "tap=NAME", "bridge=NAME", "none"};
    const std::string hint = base::did_you_mean(kind, kKinds);
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("unknown network '{}'{}", kind,
                            hint.empty() ? fmt::format(" (one of: {})", fmt::join(kKinds, ", ")) : hint));
  }
  const io::PropertyValues values =
      RHEA_TRY(io::PropertyValues::parse(kSpec, text.substr(std::min(comma + 1, text.size()))));
  if (const std::string& mac = values.get_string("mac"); !mac.empty()) options.mac = RHEA_TRY(parse_mac(mac));
  options.mtu = static_cast<uint16_t>(values.get_uint("mtu"));
  options.queues = static_cast<unsigned>(values.get_uint("queues"));
  options.link_up = values.get_string("link") == "up";
  return options;
}

// A user network has one guest, so that its card may have the same address everywhere. Others are shared.
std::array<uint8_t, 6> mac_of(const NetworkOptions& options, size_t index) {
  if (options.mac) return *options.mac;
  const auto last = static_cast<uint8_t>(index + 1);
  if (options.kind == NetworkOptions::Kind::kUser) return {0x52, 0x48, 0x45, 0x41, 0x00, last};
  const uint32_t hash = hash_of(fmt::format("{}/{}", options.machine_name, options.interface));
  return {0x52, 0x48, static_cast<uint8_t>(hash >> 16), static_cast<uint8_t>(hash >> 8), static_cast<uint8_t>(hash),
          last};
}

Result<std::unique_ptr<net::Network>> create_network(const NetworkOptions& options, size_t index, unsigned user_index,
                                                     base::EventLoop& loop) {
  if (options.kind == NetworkOptions::Kind::kUser)
    return net::create_user_network({.guest_name = options.machine_name,
                                     .index = user_index,
                                     .mtu = options.mtu,
                                     .forwards = options.forwards,
                                     .on_thread_start = options.on_thread_start});
  const bool tap = options.kind == NetworkOptions::Kind::kTap;
  return net::create_tap_network(loop, {.interface = tap ? options.interface : "",
                                        .bridge = tap ? "" : options.interface,
                                        .guest_mac = mac_of(options, index),
                                        .mtu = options.mtu});
}

}  // namespace rhea::machine
