// SPDX-License-Identifier: Apache-2.0
// Sizes, numbers and suggestions.
#include "base/strings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rhea::base {
namespace {

using ::testing::ElementsAre;

TEST(ParseSize, AllUnits) {
  const std::pair<const char*, uint64_t> kCases[] = {{"0", 0},
                                                     {"4096", 4096},
                                                     {"512M", 512ull << 20},
                                                     {"4G", 4ull << 30},
                                                     {"1GiB", 1ull << 30},
                                                     {"1gb", 1ull << 30},
                                                     {"64k", 65536},
                                                     {"64K", 65536},
                                                     {"2TiB", 2ull << 40},
                                                     {"1P", 1ull << 50},
                                                     {"7B", 7},
                                                     {"16383P", 16383ull << 50}};
  for (const auto& [text, bytes] : kCases) EXPECT_EQ(parse_size(text), bytes) << text;
}

TEST(ParseSize, MalformedAndTooLarge) {
  for (const char* text :
       {"", "M", "-1", "+1", " 1", "1 M", "1X", "1MM", "1iB", "1Bi", "1.5G", "0x10", "1GiBs", "1ib"}) {
    const auto size = parse_size(text);
    ASSERT_FALSE(size) << text;
    EXPECT_THAT(size.error().to_string(), ::testing::HasSubstr("is not a size")) << text;
  }
  for (const char* text : {"16384P", "18446744073709551616", "99999999999999999999999M"}) {
    ASSERT_FALSE(parse_size(text)) << text;
    EXPECT_THAT(parse_size(text).error().to_string(), ::testing::HasSubstr("too large")) << text;
  }
}

TEST(ParseSize, ErrorsAreOneBoundedPrintableLine) {
  const std::string text = parse_size("1\n\x1b" + std::string(10000, 'x')).error().to_string();
  EXPECT_LT(text.size(), 200u);
  EXPECT_EQ(text.find_first_of("\n\x1b"), std::string::npos);
}

TEST(ParseUnsigned, DecimalAndHexadecimal) {
  EXPECT_EQ(parse_unsigned("18446744073709551615"), ~uint64_t{0});
  EXPECT_EQ(parse_unsigned("0x3F8"), 0x3f8u);
  for (const char* text : {"", "0x", "-1", "1a", "0xg", " 1", "18446744073709551616", "0x10000000000000000"}) {
    EXPECT_FALSE(parse_unsigned(text)) << text;
  }
}

TEST(FormatSize, LargestExactUnit) {
  EXPECT_EQ(format_size(0), "0 bytes");
  EXPECT_EQ(format_size(4096), "4 KiB");
  EXPECT_EQ(format_size(1536ull << 20), "1536 MiB");
  EXPECT_EQ(format_size(4097), "4097 bytes");
}

TEST(DidYouMean, NearWordsOnly) {
  constexpr std::string_view kOptions[] = {"--kernel", "--initrd", "--append", "--memory", "--cpus", "--cpu"};
  EXPECT_EQ(closest_match("--kernle", kOptions), "--kernel");  // neighbours swapped: one edit
  EXPECT_EQ(closest_match("--initramfs", kOptions), std::nullopt);
  EXPECT_EQ(closest_match("--MEMORY", kOptions), "--memory");
  EXPECT_EQ(closest_match("--mem", kOptions), std::nullopt);
  EXPECT_EQ(closest_match("--cups", kOptions), "--cpus");
  EXPECT_EQ(closest_match("", kOptions), std::nullopt);
  EXPECT_EQ(closest_match("x", kOptions), std::nullopt);
  EXPECT_EQ(closest_match(std::string(100000, 'k'), kOptions), std::nullopt);
  EXPECT_EQ(did_you_mean("--apend", kOptions), " (did you mean '--append'?)");
  EXPECT_EQ(did_you_mean("--frobnicate", kOptions), "");
}

TEST(Split, KeepsEmptyPieces) {
  EXPECT_THAT(split("a,,b,", ','), ElementsAre("a", "", "b", ""));
  EXPECT_THAT(split("", ','), ElementsAre());
  EXPECT_THAT(split("abc", ','), ElementsAre("abc"));
}

}  // namespace
}  // namespace rhea::base
