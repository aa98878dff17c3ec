// SPDX-License-Identifier: Apache-2.0
// The syntax of port forwards.
#include <fmt/format.h>

#include "base/strings.h"
#include "net/network.h"

namespace rhea::net {

Result<Forward> parse_forward(std::string_view text) {
  const auto bad = [&] {
    return fail(
        ErrorCode::kInvalidArgument,
        fmt::format("a forward is tcp:HOSTPORT:GUESTPORT, udp:HOSTPORT:GUESTPORT, or with an address of the host "
                    "before its port: tcp:0.0.0.0:8080:80; not '{}'",
                    text));
  };
  std::vector<std::string_view> words;
  for (std::string_view rest = text;;) {
    const size_t colon = rest.find(':');
    words.push_back(rest.substr(0, colon));
    if (colon == std::string_view::npos) break;
    rest.remove_prefix(colon + 1);
  }
  if (words.size() != 3 && words.size() != 4) return bad();
  if (words[0] != "tcp" && words[0] != "udp") return bad();
  Forward forward{.udp = words[0] == "udp"};
  if (words.size() == 4) forward.host_address = words[1];
  const auto host = base::parse_unsigned(words[words.size() - 2]), guest = base::parse_unsigned(words.back());
  if (!host || !guest || *host == 0 || *host > 65535 || *guest == 0 || *guest > 65535) return bad();
  forward.host_port = static_cast<uint16_t>(*host);
  forward.guest_port = static_cast<uint16_t>(*guest);
  return forward;
}

}  // namespace rhea::net
