// SPDX-License-Identifier: Apache-2.0
// Finds addresses of this process, and its secret word, in what a guest has written.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace rhea::tests::hostile {

struct LeakQuery {
  std::span<const uint8_t> after;    // to be searched
  std::span<const uint8_t> before;   // what stood there, of the same size; or empty
  std::span<const uint8_t> program;  // the case: addresses that stand in it are its own
  size_t step = 1;                   // offsets looked at: all, or multiples of this
  uint64_t secret = 0;               // must not be seen at all
};

// The first address within the process's mappings that can be read, or the secret; empty if there is none. `where`
// names the place in the answer.
std::string find_leak(const LeakQuery& query, const std::string& where);

}  // namespace rhea::tests::hostile
