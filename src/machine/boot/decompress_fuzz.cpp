// SPDX-License-Identifier: Apache-2.0
// Any bytes to the unpackers: no crash, and never more output than allowed.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "machine/boot/decompress.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr uint64_t kLimit = uint64_t{8} << 20;
  auto result = rhea::machine::decompress(std::as_bytes(std::span(data, size)), kLimit);
  if (result) RHEA_CHECK(result->size() <= kLimit);
  return 0;
}
