// SPDX-License-Identifier: Apache-2.0
// Device properties from the command line.
#include "io/device_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rhea::io {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kFormats[] = {"raw", "qcow2"};
constexpr PropertySpec kProperties[] = {
    {.name = "readonly", .type = PropertyType::kBool, .help = "refuse writes", .default_value = "off"},
    {.name = "port", .type = PropertyType::kUint, .help = "first port", .default_value = "0x3f8", .max = 0xfff8},
    {.name = "cache", .type = PropertyType::kSize, .help = "cache size", .default_value = "1M"},
    {.name = "file", .type = PropertyType::kString, .help = "the image", .required = true},
    {.name = "format",
     .type = PropertyType::kChoice,
     .help = "image format",
     .default_value = "raw",
     .choices = kFormats},
    {.name = "serial", .type = PropertyType::kString, .help = "serial number"},
};
constexpr DeviceSpec kDisk = {.name = "disk", .help = "a disk", .state_version = 3, .properties = kProperties};

std::string problem(std::string_view text) {
  const auto values = PropertyValues::parse(kDisk, text);
  return values ? "none" : values.error().to_string();
}

TEST(DeviceSpec, DefaultsAndGivenValues) {
  const auto values = PropertyValues::parse(kDisk, "file=x.img");
  ASSERT_TRUE(values);
  EXPECT_FALSE(values->get_bool("readonly"));
  EXPECT_EQ(values->get_uint("port"), 0x3f8u);
  EXPECT_EQ(values->get_uint("cache"), 1u << 20);
  EXPECT_EQ(values->get_string("file"), "x.img");
  EXPECT_EQ(values->get_string("format"), "raw");
  EXPECT_EQ(values->get_string("serial"), "");

  const auto given = PropertyValues::parse(kDisk, "readonly,port=760,cache=2G,file=\"a,b=c.img\",format=qcow2");
  ASSERT_TRUE(given) << given.error().to_string();
  EXPECT_TRUE(given->get_bool("readonly"));
  EXPECT_EQ(given->get_uint("port"), 760u);
  EXPECT_EQ(given->get_uint("cache"), 2ull << 30);
  EXPECT_EQ(given->get_string("file"), "a,b=c.img");
  EXPECT_EQ(given->get_string("format"), "qcow2");
}

TEST(DeviceSpec, ErrorsAreClear) {
  EXPECT_EQ(problem(""), "device 'disk' needs its property 'file'");
  EXPECT_EQ(problem("flie=x"), "device 'disk' has no property 'flie' (did you mean 'file'?)");
  EXPECT_EQ(problem("file=x,file=y"), "device 'disk': property 'file' is given twice");
  EXPECT_EQ(problem("file=x,readonly=maybe"), "device 'disk', property 'readonly': 'maybe' is neither on nor off");
  EXPECT_EQ(problem("file=x,port=0xffff"), "device 'disk', property 'port': '0xffff' is out of range (0 to 65528)");
  EXPECT_THAT(problem("file=x,cache=big"), HasSubstr("'big' is not a size"));
  EXPECT_EQ(problem("file=x,format=qcow"),
            "device 'disk', property 'format': 'qcow' is none of raw, qcow2 (did you mean 'qcow2'?)");
  EXPECT_EQ(problem("file=\"x"), "the value of 'file' lacks its closing quote");
  EXPECT_THAT(problem(",,"), HasSubstr("has no property ''"));
}

TEST(DeviceSpec, HelpListsEverything) {
  const std::string help = describe_spec(kDisk);
  EXPECT_THAT(help, HasSubstr("disk: a disk\n"));
  EXPECT_THAT(help, HasSubstr("  file=STRING  the image (required)\n"));
  EXPECT_THAT(help, HasSubstr("  format=raw|qcow2  image format (default: raw)\n"));
}

}  // namespace
}  // namespace rhea::io
