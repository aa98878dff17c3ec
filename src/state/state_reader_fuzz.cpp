// SPDX-License-Identifier: Apache-2.0
// Fuzzes StateReader: arbitrary bytes, with the header and checksum put right so that the inside is reached.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/endian.h"
#include "state/state_reader.h"

namespace {

using rhea::state::StateReader;

struct Item {
  uint32_t number = 0;
  std::vector<uint16_t> words;
  template <class Archive>
  static void describe(Archive& archive, auto& self) {
    archive.field("n", self.number);
    archive.field("w", self.words);
  }
};

// Opens everything the file names, as every type there is.
void walk(StateReader reader) {
  for (std::string_view name : reader.field_names()) {
    auto attempt = [&]<class T>(T value) {
      StateReader copy = reader;
      copy.field(name, value);
    };
    attempt(uint8_t{});
    attempt(int16_t{});
    attempt(uint64_t{});
    attempt(bool{});
    attempt(std::string{});
    attempt(std::vector<std::byte>{});
    attempt(std::vector<int32_t>{});
    attempt(std::array<uint32_t, 3>{});
    attempt(std::vector<Item>{});
    attempt(Item{});
    if (auto nested = reader.open_section(name, 3)) walk(*nested);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  (void)StateReader::open(input, 3);

  using namespace rhea::state;
  std::vector<std::byte> file(kHeaderBytes);
  std::memcpy(file.data(), kMagic.data(), kMagic.size());
  rhea::base::store_le<uint32_t>(file.data() + 8, kFormatVersion);
  rhea::base::store_le<uint64_t>(file.data() + 16, size);
  file.insert(file.end(), input.begin(), input.end());
  file.resize(file.size() + kTrailerBytes);
  rhea::base::store_le<uint32_t>(file.data() + file.size() - kTrailerBytes,
                                 crc32(std::span(file).first(file.size() - kTrailerBytes)));
  if (auto reader = StateReader::open(file, 3)) walk(*reader);
  return 0;
}
