// SPDX-License-Identifier: Apache-2.0
// A network that notes what passes through it. Format: [PCAP].
#pragma once

#include <memory>
#include <string>

#include "base/error.h"
#include "net/network.h"

namespace rhea::net {

// `network` with all of its frames, of both directions, written to a new file at `path`, which tcpdump and Wireshark
// read; an existing file is replaced. A file that cannot be written to any more (a full disk) ends the capture, not the
// network. Frames are noted in the order in which they were taken. Errors: the file cannot be created.
Result<std::unique_ptr<Network>> capture_network(std::unique_ptr<Network> network, const std::string& path);

}  // namespace rhea::net
