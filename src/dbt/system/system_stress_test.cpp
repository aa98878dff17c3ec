// SPDX-License-Identifier: Apache-2.0
// The fuzz target on random inputs, biased towards opcodes that have system functions.
#include <gtest/gtest.h>

#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace rhea::dbt {
namespace {

TEST(SystemStress, RandomInputs) {
  static constexpr uint8_t kOneByte[] = {
      0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x60, 0x61, 0x62, 0x63, 0x6c, 0x6d, 0x6e, 0x6f, 0x8c, 0x8e, 0x9a, 0x9c,
      0x9d, 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0xc4, 0xc5, 0xc8, 0xc9, 0xca, 0xcb, 0xcc, 0xcd,
      0xce, 0xcf, 0xd7, 0xe4, 0xe5, 0xe6, 0xe7, 0xea, 0xec, 0xed, 0xee, 0xef, 0xf1, 0xf4, 0xfa, 0xfb, 0xff, 0xd9, 0xdd};
  static constexpr uint8_t kTwoByte[] = {0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x09, 0x20,
                                         0x21, 0x22, 0x23, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0xa0,
                                         0xa1, 0xa2, 0xa8, 0xa9, 0xae, 0xb2, 0xb4, 0xb5, 0xc7};
  std::mt19937 random(3);
  for (unsigned round = 0; round < 1000; ++round) {
    std::vector<uint8_t> input(256 + random() % 256);
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
    // Rewrite what will mostly be read as instruction starts.
    for (size_t at = 64; at + 15 < input.size(); at += 1 + random() % 7) {
      size_t opcode = at;
      if (random() % 4 == 0) input[opcode++] = random() % 2 ? 0x66 : 0xf3;
      if (random() % 4 == 0) input[opcode++] = 0x48;
      if (random() % 2) {
        input[opcode++] = 0x0f;
        input[opcode] = kTwoByte[random() % std::size(kTwoByte)];
      } else {
        input[opcode] = kOneByte[random() % std::size(kOneByte)];
      }
    }
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
}

}  // namespace
}  // namespace rhea::dbt
