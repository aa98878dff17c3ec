// SPDX-License-Identifier: Apache-2.0
// Builds the SMBIOS structures of the PC.
#include "machine/acpi/smbios.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace rhea::machine {
namespace {

constexpr size_t kEntry64Bytes = 24, kEntry32Bytes = 31;
constexpr uint16_t kHandleChassis = 0x0300, kHandleProcessor = 0x0400, kHandleMemoryArray = 0x1000;

// One structure: formatted area, then its strings. [SMBIOS-3.6 6.1]
class Structure {
 public:
  Structure(uint8_t type, uint16_t handle) { formatted_.u8(type).u8(0).u16(handle); }
  ByteImage& fields() { return formatted_; }
  uint8_t string(std::string_view text) {  // its number, 0 for an empty text
    if (text.empty()) return 0;
    strings_.emplace_back(text);
    return static_cast<uint8_t>(strings_.size());
  }
  ByteImage finish() {
    formatted_.put8(1, static_cast<uint8_t>(formatted_.size()));
    ByteImage bytes = formatted_;
    for (const std::string& text : strings_) bytes.text(text).u8(0);
    if (strings_.empty()) bytes.u8(0);
    bytes.u8(0);
    return bytes;
  }

 private:
  ByteImage formatted_;
  std::vector<std::string> strings_;
};

class Builder {
 public:
  void add(Structure structure) {
    ByteImage bytes = structure.finish();
    largest_ = std::max(largest_, bytes.size());
    image_.bytes(bytes.span());
    ++count_;
  }
  const ByteImage& image() const { return image_; }
  size_t count() const { return count_; }
  size_t largest() const { return largest_; }

 private:
  ByteImage image_;
  size_t count_ = 0, largest_ = 0;
};

void add_firmware(Builder& builder) {
  constexpr uint64_t kCharacteristicsNotGiven = 1u << 3;
  constexpr uint8_t kAcpi = 1, kVirtualMachine = 1u << 4;
  Structure structure(0, 0);
  uint8_t vendor = structure.string("Rhea"), version = structure.string("1"), date = structure.string("01/01/2025");
  structure.fields().u8(vendor).u8(version).u16(0xe000).u8(date).u8(0).u64(kCharacteristicsNotGiven);
  structure.fields().u8(kAcpi).u8(kVirtualMachine).u8(0).u8(0).u8(0xff).u8(0xff).u16(0);
  builder.add(std::move(structure));
}

void add_system(Builder& builder, const PlatformDescription& platform) {
  constexpr uint8_t kWakeUpPowerSwitch = 6;
  Structure structure(1, 0x0100);
  uint8_t maker = structure.string("Rhea"), product = structure.string("Rhea PC"), version = structure.string("1");
  uint8_t sku = structure.string(platform.name);
  structure.fields().u8(maker).u8(product).u8(version).u8(0).zeros(16).u8(kWakeUpPowerSwitch).u8(sku).u8(0);
  builder.add(std::move(structure));
}

void add_chassis(Builder& builder) {
  constexpr uint8_t kOther = 1, kSafe = 3, kNoSecurity = 3;
  Structure structure(3, kHandleChassis);
  uint8_t maker = structure.string("Rhea");
  structure.fields().u8(maker).u8(kOther).u8(0).u8(0).u8(0).u8(kSafe).u8(kSafe).u8(kSafe).u8(kNoSecurity);
  structure.fields().u32(0).u8(0).u8(1).u8(0).u8(0).u8(0);
  builder.add(std::move(structure));
}

void add_processor(Builder& builder, const PlatformDescription& platform) {
  constexpr uint8_t kCentralProcessor = 3, kOtherFamily = 1, kEnabledSocket = 0x41, kUpgradeOther = 1;
  constexpr uint16_t k64Bit = 1u << 2, kMultiCore = 1u << 3, kUnknownCache = 0xffff;
  Structure structure(4, kHandleProcessor);
  uint8_t socket = structure.string("CPU 0"), maker = structure.string("Rhea"),
          version = structure.string("Virtual processor");
  const auto cores = static_cast<uint8_t>(std::min(platform.cpu_count, 255u));
  structure.fields().u8(socket).u8(kCentralProcessor).u8(kOtherFamily).u8(maker).u64(0).u8(version).u8(0);
  structure.fields().u16(0).u16(0).u16(0).u8(kEnabledSocket).u8(kUpgradeOther);
  structure.fields().u16(kUnknownCache).u16(kUnknownCache).u16(kUnknownCache).u8(0).u8(0).u8(0);
  structure.fields().u8(cores).u8(cores).u8(cores).u16(
      static_cast<uint16_t>(k64Bit | (platform.cpu_count > 1 ? kMultiCore : 0)));
  structure.fields().u16(kOtherFamily);
  for (int i = 0; i < 3; ++i) structure.fields().u16(static_cast<uint16_t>(platform.cpu_count));
  builder.add(std::move(structure));
}

void add_memory(Builder& builder, const PlatformDescription& platform) {
  constexpr uint8_t kMotherboard = 3, kSystemMemory = 3, kNoErrorCorrection = 3, kDimm = 9, kRam = 7;
  constexpr uint32_t kExtendedCapacity = 0x80000000;
  constexpr uint16_t kNoErrorInformation = 0xfffe, kExtendedSize = 0x7fff;
  const uint64_t bytes = platform.low_ram_bytes + platform.high_ram_bytes;

  Structure array(16, kHandleMemoryArray);
  bool extended = (bytes >> 10) >= kExtendedCapacity;
  array.fields().u8(kMotherboard).u8(kSystemMemory).u8(kNoErrorCorrection);
  array.fields().u32(extended ? kExtendedCapacity : static_cast<uint32_t>(bytes >> 10)).u16(kNoErrorInformation).u16(1);
  array.fields().u64(extended ? bytes : 0);
  builder.add(std::move(array));

  Structure module(17, 0x1100);
  const uint64_t mib = bytes >> 20;
  uint8_t locator = module.string("DIMM 0"), maker = module.string("Rhea");
  module.fields().u16(kHandleMemoryArray).u16(kNoErrorInformation).u16(0xffff).u16(0xffff);
  module.fields()
      .u16(mib >= kExtendedSize ? kExtendedSize : static_cast<uint16_t>(mib))
      .u8(kDimm)
      .u8(0)
      .u8(locator)
      .u8(0);
  module.fields().u8(kRam).u16(1u << 1).u16(0).u8(maker).u8(0).u8(0).u8(0).u8(0);
  module.fields().u32(mib >= kExtendedSize ? static_cast<uint32_t>(mib) : 0).u16(0).u16(0).u16(0).u16(0);
  builder.add(std::move(module));

  auto add_range = [&](uint16_t handle, uint64_t start, uint64_t size) {
    Structure range(19, handle);
    uint64_t last_kib = (start + size - 1) >> 10;
    bool wide = last_kib >= 0xffffffff;
    range.fields()
        .u32(wide ? 0xffffffff : static_cast<uint32_t>(start >> 10))
        .u32(wide ? 0xffffffff : static_cast<uint32_t>(last_kib));
    range.fields().u16(kHandleMemoryArray).u8(1).u64(wide ? start : 0).u64(wide ? start + size - 1 : 0);
    builder.add(std::move(range));
  };
  add_range(0x1300, 0, platform.low_ram_bytes);
  if (platform.high_ram_bytes != 0) add_range(0x1301, uint64_t{1} << 32, platform.high_ram_bytes);
}

void add_oem_strings(Builder& builder, const PlatformDescription& platform) {
  if (platform.oem_strings.empty()) return;
  Structure structure(11, 0x0b00);
  uint8_t count = 0;
  for (const std::string& text : platform.oem_strings) count = structure.string(text);
  structure.fields().u8(count);
  builder.add(std::move(structure));
}

ByteImage entry_point64(uint32_t table, size_t table_bytes) {
  ByteImage entry;
  entry.text("_SM3_")
      .u8(0)
      .u8(kEntry64Bytes)
      .u8(3)
      .u8(6)
      .u8(0)
      .u8(1)
      .u8(0)
      .u32(static_cast<uint32_t>(table_bytes))
      .u64(table);
  entry.put_checksum(5, 0, kEntry64Bytes);
  return entry;
}

ByteImage entry_point32(uint32_t table, const Builder& builder) {
  ByteImage entry;
  entry.text("_SM_").u8(0).u8(kEntry32Bytes).u8(2).u8(8).u16(static_cast<uint16_t>(builder.largest())).u8(0).zeros(5);
  entry.text("_DMI_").u8(0).u16(static_cast<uint16_t>(builder.image().size())).u32(table);
  entry.u16(static_cast<uint16_t>(builder.count())).u8(0x28);
  entry.put_checksum(0x15, 0x10, 15);
  entry.put_checksum(4, 0, kEntry32Bytes);
  return entry;
}

}  // namespace

ByteImage build_smbios(const PlatformDescription& platform, uint32_t base) {
  Builder builder;
  add_firmware(builder);
  add_system(builder, platform);
  add_chassis(builder);
  add_processor(builder, platform);
  add_oem_strings(builder, platform);
  add_memory(builder, platform);
  Structure boot(32, 0x2000);
  boot.fields().zeros(6).u8(0);  // no errors detected
  builder.add(std::move(boot));
  builder.add(Structure(127, 0x7f00));

  const uint32_t entry32_at = base + 32, table_at = base + 64;
  ByteImage image(64);
  image.put_bytes(0, entry_point64(table_at, builder.image().size()).span());
  image.put_bytes(entry32_at - base, entry_point32(table_at, builder).span());
  image.bytes(builder.image().span());
  return image;
}

}  // namespace rhea::machine
