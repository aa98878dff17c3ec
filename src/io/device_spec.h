// SPDX-License-Identifier: Apache-2.0
// What a kind of device says of itself: the command line, the API, the help text, the PCI ids and the state section
// are derived from it. The factory stands beside it in the machine's registry, which knows the concrete types.
//
//   inline constexpr io::PropertySpec kSerialProperties[] = {
//       {.name = "port", .type = io::PropertyType::kUint, .help = "first I/O port", .default_value = "0x3f8", .max =
//       0xfff8},
//   };
//   inline constexpr io::DeviceSpec kSerialSpec = {
//       .name = "serial", .help = "16550A UART", .state_version = 1, .properties = kSerialProperties};
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace rhea::io {

enum class PropertyType : uint8_t {
  kBool,  // on, off
  kUint,  // decimal or 0x...
  kSize,  // 512M
  kString,
  kChoice,  // one of PropertySpec::choices
};

struct PropertySpec {
  std::string_view name;
  PropertyType type = PropertyType::kString;
  std::string_view help = {};
  std::string_view default_value = {};  // in the syntax of the command line; ignored for required ones
  bool required = false;
  uint64_t min = 0;  // kUint, kSize
  uint64_t max = ~uint64_t{0};
  std::span<const std::string_view> choices = {};
};

struct PciIds {
  uint16_t vendor = 0;
  uint16_t device = 0;
  uint32_t class_code = 0;  // class, subclass, programming interface: 24 bits
  uint16_t subsystem_vendor = 0;
  uint16_t subsystem_device = 0;
};

struct DeviceSpec {
  std::string_view name;  // of the kind, as on the command line
  std::string_view help;  // one line
  uint32_t state_version = 1;
  std::span<const PropertySpec> properties = {};
  std::optional<PciIds> pci = std::nullopt;
};

// The properties of one device instance, all of those of its spec, checked.
class PropertyValues {
 public:
  // "port=0x3f8,irq=4": values may be double-quoted to hold commas. Errors: kInvalidArgument for an unknown
  // property (with the nearest right one), a malformed or missing value, one out of range.
  static Result<PropertyValues> parse(const DeviceSpec& spec, std::string_view text);

  // The name must be one of the spec's, of that type.
  bool get_bool(std::string_view name) const { return number(name) != 0; }
  uint64_t get_uint(std::string_view name) const { return number(name); }
  const std::string& get_string(std::string_view name) const;  // also kChoice

 private:
  struct Value {
    std::string text;
    uint64_t number = 0;
  };
  static Result<Value> parse_value(const PropertySpec& property, std::string_view text);
  uint64_t number(std::string_view name) const;
  std::map<std::string, Value, std::less<>> values_;
};

// The lines of --help about a kind of device.
std::string describe_spec(const DeviceSpec& spec);

}  // namespace rhea::io
