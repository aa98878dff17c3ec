// SPDX-License-Identifier: Apache-2.0
// The balloon with a hostile driver.
#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/virtio_device_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea;
  using namespace rhea::devices::virtio;
  Balloon* balloon = nullptr;
  const FuzzedDevice device{
      .create =
          [&](memory::GuestMemory& memory, base::IoThread& thread) {
            auto made = std::move(*Balloon::create("balloon0", {.memory = memory, .thread = thread}));
            balloon = made.get();
            return std::unique_ptr<VirtioDevice>(std::move(made));
          },
      .queues = 4,
      .requests = {{0x40, 0, 0, 0, 0x41, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, {4, 0, 1, 2, 3, 4, 5, 6, 7, 8}},
      .event =
          [&](rhea::testing::FuzzInput& in) {
            if (in.take<uint8_t>() % 2)
              balloon->set_target(in.take<uint64_t>());
            else
              balloon->request_statistics();
            (void)balloon->statistics();
          }};
  return fuzz_virtio(device, data, size);
}
