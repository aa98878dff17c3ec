// SPDX-License-Identifier: Apache-2.0
// Hostile guests guided by coverage: libFuzzer keeps the cases that reach new code of translator, runtime and devices.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/hostile/program.h"
#include "tests/hostile/run.h"
#include "tests/hostile/watchdog.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace rhea::tests::hostile {
namespace {

constexpr unsigned kCpuMilliseconds = 20;

// Lives as long as the process.
struct Session {
  Watchdog watchdog{[](const std::string& text) {
    std::fprintf(stderr, "hang: %s", text.c_str());
    std::abort();
  }};
  Arena arena;
};

}  // namespace
}  // namespace rhea::tests::hostile

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rhea::tests::hostile;
  static Session* session = new Session;
  session->watchdog.begin_case();
  const Outcome outcome = session->arena.run(parse_case({data, size}), kCpuMilliseconds);
  if (outcome.leak.empty()) return 0;
  std::fprintf(stderr, "leak: %s\n", outcome.leak.c_str());
  std::abort();
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  using namespace rhea::tests::hostile;
  rhea::isa::x86::Rng random(seed);
  if (size > 0 && random.chance(1, 4)) return LLVMFuzzerMutate(data, size, max_size);
  Case value = random.chance(1, 16) ? make_case(random, {}) : parse_case({data, size});
  for (unsigned changes = 1 + random.below(4); changes > 0; --changes) mutate(value, random, false);
  const std::vector<uint8_t> bytes = to_bytes(value);
  const size_t count = std::min(bytes.size(), max_size);
  std::memcpy(data, bytes.data(), count);
  return count;
}
