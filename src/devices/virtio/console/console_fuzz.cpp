// SPDX-License-Identifier: Apache-2.0
// The console with a hostile driver, and input at any time.
#include <cstring>

#include "base/check.h"
#include "devices/virtio/console/console.h"
#include "devices/virtio/virtio_device_fuzz.h"

namespace {

using namespace rhea;
using namespace rhea::devices::virtio;

class Sink final : public devices::CharBackend {
 public:
  void write(std::span<const std::byte>) override {}
  void set_receiver(devices::CharReceiver* to) override { receiver = to; }
  void on_receive_ready() override {}
  devices::CharReceiver* receiver = nullptr;
};

std::vector<uint8_t> control(uint8_t port, uint8_t event, uint8_t value) { return {port, 0, 0, 0, event, 0, value, 0}; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Sink terminal, agent;
  Console* console = nullptr;
  const FuzzedDevice device{.create =
                                [&](memory::GuestMemory& memory, base::IoThread& thread) {
                                  auto made = std::move(*Console::create(
                                      {.ports = {{.backend = &terminal}, {.name = "a", .backend = &agent}}},
                                      {.memory = memory, .thread = thread}));
                                  console = made.get();
                                  return std::unique_ptr<VirtioDevice>(std::move(made));
                                },
                            .queues = 6,
                            .requests = {control(0, 0, 1), control(0, 3, 1), control(1, 3, 1), control(0, 6, 1),
                                         control(1, 6, 1), control(1, 6, 0), control(9, 3, 1)},
                            .event =
                                [&](rhea::testing::FuzzInput& in) {
                                  std::byte bytes[300] = {};
                                  const auto what = in.take<uint8_t>();
                                  Sink& sink = what & 1 ? terminal : agent;
                                  if (what & 2)
                                    console->set_size(in.take<uint16_t>(), in.take<uint16_t>());
                                  else if (sink.receiver)
                                    RHEA_CHECK(sink.receiver->receive(std::span(bytes).first(what)) <= what);
                                }};
  return fuzz_virtio(device, data, size);
}
