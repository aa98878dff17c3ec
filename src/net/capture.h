// SPDX-License-Identifier: Apache-2.0
// A network that notes what passes through it. Format: [PCAP].
#pragma once

#include <memory>
#include <string>

#include "base/error.h"
#include "net/network.h"

namespace rhea::net {

class CaptureFile;

// A new file at `path`, which tcpdump and Wireshark read; an existing one is replaced. One that cannot be written to
// any more (a full disk) ends the capture, not the network. Errors: it cannot be created.
Result<std::shared_ptr<CaptureFile>> create_capture(const std::string& path);

// `network` with all of its frames, of both directions, noted in the file in the order in which they were taken.
// Several networks may share a file; the cards' addresses tell their frames apart. Frames are noted as they pass: with
// offloads, longer than the network's MTU and without checksums.
std::unique_ptr<Network> capture_network(std::unique_ptr<Network> network, std::shared_ptr<CaptureFile> file);

}  // namespace rhea::net
