// SPDX-License-Identifier: Apache-2.0
// Guest RAM for tests, with typed access that fails the test instead of returning false.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/endian.h"
#include "memory/guest_memory.h"

namespace rhea::testing {

class FakeGuestMemory {
 public:
  explicit FakeGuestMemory(uint64_t size_bytes = 16 << 20) : FakeGuestMemory({{{0}, size_bytes}}) {}
  explicit FakeGuestMemory(std::vector<memory::GuestMemory::Extent> extents) {
    auto created = memory::GuestMemory::create(extents, {.name = "test-ram"});
    RHEA_CHECK(created.has_value());
    owned_ = std::move(*created);
    memory_ = owned_.get();
  }
  explicit FakeGuestMemory(memory::GuestMemory& of_a_machine) : memory_(&of_a_machine) {}

  memory::GuestMemory& get() { return *memory_; }
  memory::GuestMemory* operator->() { return memory_; }

  template <std::unsigned_integral T>
  T read(uint64_t address) const {
    std::array<std::byte, sizeof(T)> bytes;
    RHEA_CHECK(memory_->read({address}, bytes));
    return base::load_le<T>(bytes.data());
  }
  template <std::unsigned_integral T>
  void write(uint64_t address, T value) {
    std::array<std::byte, sizeof(T)> bytes;
    base::store_le(bytes.data(), value);
    RHEA_CHECK(memory_->write({address}, bytes));
  }
  void write_bytes(uint64_t address, std::span<const uint8_t> bytes) {
    RHEA_CHECK(memory_->write({address}, std::as_bytes(bytes)));
  }
  std::vector<uint8_t> read_bytes(uint64_t address, size_t count) const {
    std::vector<uint8_t> bytes(count);
    RHEA_CHECK(memory_->read({address}, std::as_writable_bytes(std::span(bytes))));
    return bytes;
  }

 private:
  std::unique_ptr<memory::GuestMemory> owned_;
  memory::GuestMemory* memory_ = nullptr;
};

// Remembers what it was told.
class FakeWriteObserver final : public memory::WriteObserver {
 public:
  struct Write {
    uint64_t start;
    uint64_t length_bytes;
    bool operator==(const Write&) const = default;
  };
  void on_write(memory::GuestPhysAddr start, uint64_t length_bytes) override {
    writes.push_back({start.value, length_bytes});
  }
  std::vector<Write> writes;
};

}  // namespace rhea::testing
