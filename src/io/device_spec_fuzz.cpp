// SPDX-License-Identifier: Apache-2.0
// Fuzzes the parser of device properties.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "io/device_spec.h"

namespace {
constexpr std::string_view kChoices[] = {"raw", "qcow2"};
constexpr rhea::io::PropertySpec kProperties[] = {
    {.name = "flag", .type = rhea::io::PropertyType::kBool, .help = "", .default_value = "on"},
    {.name = "port", .type = rhea::io::PropertyType::kUint, .help = "", .default_value = "1", .max = 0xffff},
    {.name = "size", .type = rhea::io::PropertyType::kSize, .help = "", .default_value = "1M"},
    {.name = "file", .type = rhea::io::PropertyType::kString, .help = ""},
    {.name = "format",
     .type = rhea::io::PropertyType::kChoice,
     .help = "",
     .default_value = "raw",
     .choices = kChoices},
};
constexpr rhea::io::DeviceSpec kSpec = {.name = "fuzz", .help = "", .properties = kProperties};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto values = rhea::io::PropertyValues::parse(kSpec, {reinterpret_cast<const char*>(data), size});
  if (values && values->get_uint("port") > 0xffff) __builtin_trap();
  return 0;
}
