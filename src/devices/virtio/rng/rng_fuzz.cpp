// SPDX-License-Identifier: Apache-2.0
// The entropy device with a hostile driver.
#include "devices/virtio/rng/rng.h"
#include "devices/virtio/virtio_device_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea;
  using namespace rhea::devices::virtio;
  const FuzzedDevice device{.create = [](memory::GuestMemory& memory, base::IoThread& thread) {
    return std::unique_ptr<VirtioDevice>(std::move(*Rng::create("rng0", {.memory = memory, .thread = thread})));
  }};
  return fuzz_virtio(device, data, size);
}
