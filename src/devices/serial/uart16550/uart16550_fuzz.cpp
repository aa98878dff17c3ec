// SPDX-License-Identifier: Apache-2.0
// Fuzzes the UART through its registers, its backend and its saved state.
#include "devices/serial/uart16550/uart16550.h"
#include "testing/device_fuzz.h"

namespace {

// Hands in as much as the UART says it takes, which it must then take.
class Backend final : public rhea::devices::CharBackend {
 public:
  void write(std::span<const std::byte> data) override { RHEA_CHECK(data.size() == 1); }
  void set_receiver(rhea::devices::CharReceiver* new_receiver) override { receiver = new_receiver; }
  void on_receive_ready() override {}
  rhea::devices::CharReceiver* receiver = nullptr;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::devices;
  using namespace rhea::testing;
  DeviceHarness harness;
  Backend backend;
  Uart16550 uart({}, {.clock = harness.clock, .irq = harness.line(4), .backend = &backend});
  uart.map_into(harness.ports);
  constexpr FuzzRange kRanges[] = {{.start = 0x3f8, .size_bytes = 8}};
  fuzz_device(harness, uart, kRanges, {data, size}, [&](unsigned kind, FuzzInput& input) {
    if (kind == 0) {
      backend.receiver->receive_break();
      return;
    }
    const auto bytes = input.take<std::array<std::byte, 24>>();
    const size_t count = kind * 2;
    const size_t capacity = uart.receive_capacity();
    RHEA_CHECK(uart.receive(std::span(bytes).first(std::min(count, bytes.size()))) ==
               std::min({count, bytes.size(), capacity}));
  });
  return 0;
}
