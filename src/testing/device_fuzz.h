// SPDX-License-Identifier: Apache-2.0
// Drives any device from fuzzer input: register accesses of all sizes, time, save and load, damaged saved state.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "state/format.h"
#include "testing/device_harness.h"

namespace rhea::testing {

// Consumes fuzzer input from the front; zeros once it is used up.
class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : data_(data, size) {}
  bool empty() const { return data_.empty(); }
  template <class T>
  T take() {
    T value{};
    const size_t bytes = std::min(sizeof value, data_.size());
    std::memcpy(&value, data_.data(), bytes);
    data_ = data_.subspan(bytes);
    return value;
  }

 private:
  std::span<const uint8_t> data_;
};

// One range of registers, in the harness's ports or physical address space.
struct FuzzRange {
  bool port = true;
  uint64_t start = 0;
  uint64_t size_bytes = 1;
};

inline void fuzz_damaged_load(io::Device& device, FuzzInput& input) {
  std::vector<std::byte> file = DeviceHarness::save(device);
  constexpr size_t kFixed = state::kHeaderBytes + state::kTrailerBytes;
  for (unsigned count = input.take<uint8_t>() & 7; count > 0 && file.size() > kFixed; --count) {
    const size_t at = state::kHeaderBytes + input.take<uint16_t>() % (file.size() - kFixed);
    file[at] = static_cast<std::byte>(input.take<uint8_t>());
  }
  const uint32_t crc = state::crc32(std::span(file).first(file.size() - state::kTrailerBytes));
  for (unsigned i = 0; i < 4; ++i) file[file.size() - 4 + i] = static_cast<std::byte>(crc >> (8 * i));
  (void)DeviceHarness::load(device, file);  // may be refused; must not do harm
}

// `extra(kind, input)` does what is particular to the device.
template <class Extra>
void fuzz_device(DeviceHarness& harness, io::Device& device, std::span<const FuzzRange> ranges, FuzzInput input,
                 Extra extra) {
  while (!input.empty()) {
    const auto kind = input.take<uint8_t>();
    const FuzzRange& range = ranges[input.take<uint8_t>() % ranges.size()];
    const uint64_t address = range.start + input.take<uint32_t>() % range.size_bytes;
    io::AddressSpace& space = range.port ? harness.ports : harness.physical;
    switch (kind % 16) {
      case 0 ... 5: space.write(address, input.take<uint64_t>(), 1u << (kind >> 4 & (range.port ? 1 : 3))); break;
      case 6 ... 9: (void)space.read(address, 1u << (kind >> 4 & 3)); break;
      case 10: harness.clock.advance(input.take<uint32_t>() & 0xffffff); break;
      case 11: harness.router.set_gsi(kind >> 4 | (address & 1) << 4, input.take<uint8_t>() & 1); break;
      case 12: fuzz_damaged_load(device, input); break;
      case 13:
        if (kind == 13) device.reset();
        break;
      default: extra(kind >> 4, input); break;
    }
  }
  const auto saved = DeviceHarness::save(device);
  RHEA_CHECK(DeviceHarness::load(device, saved).has_value());
}
inline void fuzz_device(DeviceHarness& harness, io::Device& device, std::span<const FuzzRange> ranges,
                        FuzzInput input) {
  fuzz_device(harness, device, ranges, input, [](unsigned, FuzzInput&) {});
}

}  // namespace rhea::testing
