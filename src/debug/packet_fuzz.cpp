// SPDX-License-Identifier: Apache-2.0
// Arbitrary bytes as a debugger's connection: framing, and all commands against a fake machine.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "debug/session.h"
#include "debug/target_fake.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::debug;
  static FakeTarget target(2);  // its memory is worth keeping; its state is not looked at
  Session session(target);
  session.on_stopped({});
  std::span<const uint8_t> rest(data, size);
  // Lines are framed, so that the fuzzer need not learn checksums; what begins with '!' goes in as it is.
  while (!rest.empty()) {
    size_t length = 0;
    while (length < rest.size() && rest[length] != '\n') ++length;
    std::string_view line(reinterpret_cast<const char*>(rest.data()), length);
    rest = rest.subspan(std::min(rest.size(), length + 1));
    std::string framed = line.starts_with("!") ? std::string(line.substr(1)) : frame_packet(line);
    session.receive({reinterpret_cast<const uint8_t*>(framed.data()), framed.size()});
    RHEA_CHECK(session.output().size() <= 8 * kMaxPacketBytes);
    session.take_output(session.output().size());
    session.on_stopped({.reason = StopEvent::Reason::kDebug, .vcpu = static_cast<unsigned>(length % 3)});
    if (session.finished()) break;
  }
  session.close();
  return 0;
}
