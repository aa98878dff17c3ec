// SPDX-License-Identifier: Apache-2.0
// Round trips of machine state, and what hostile files get for an answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/endian.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::state {
namespace {

using ::testing::HasSubstr;

enum class Mode : uint8_t { kOff, kOneShot, kPeriodic };

struct Channel {
  static constexpr uint32_t kStateVersion = 2;
  uint32_t count = 0;
  bool gate = false;
  Mode mode = Mode::kOff;
  bool operator==(const Channel&) const = default;

  template <class Archive>
  static void describe(Archive& archive, auto& self) {
    archive.field("count", self.count);
    archive.field("gate", self.gate);
    archive.field("mode", self.mode);
  }
};

struct Everything {
  uint8_t u8 = 0;
  uint16_t u16 = 0;
  uint32_t u32 = 0;
  uint64_t u64 = 0;
  int8_t i8 = 0;
  int64_t i64 = 0;
  bool flag = false;
  std::string text;
  std::vector<std::byte> blob;
  std::array<uint8_t, 4> bytes{};
  std::array<bool, 3> flags{};
  std::array<uint16_t, 2> words{};
  std::vector<uint64_t> quads;
  std::array<int32_t, 2> signed_words{};
  std::array<Channel, 3> channels{};
  std::vector<Channel> list;
  Channel single;
  bool operator==(const Everything&) const = default;
};

template <class Archive, class T>
  requires std::same_as<std::remove_const_t<T>, Everything>
void describe(Archive& archive, T& self) {
  archive.field("u8", self.u8);
  archive.field("u16", self.u16);
  archive.field("u32", self.u32);
  archive.field("u64", self.u64);
  archive.field("i8", self.i8);
  archive.field("i64", self.i64);
  archive.field("flag", self.flag);
  archive.field("text", self.text);
  archive.field("blob", self.blob);
  archive.field("bytes", self.bytes);
  archive.field("flags", self.flags);
  archive.field("words", self.words);
  archive.field("quads", self.quads);
  archive.field("signed_words", self.signed_words);
  archive.field("channels", self.channels);
  archive.field("list", self.list);
  archive.field("single", self.single);
}

Everything sample() {
  return {.u8 = 0xfe,
          .u16 = 0xfedc,
          .u32 = 0xfedcba98,
          .u64 = 0xfedcba9876543210,
          .i8 = -128,
          .i64 = std::numeric_limits<int64_t>::min(),
          .flag = true,
          .text = std::string("name\0with zero", 14),
          .blob = {std::byte{1}, std::byte{0}, std::byte{255}},
          .bytes = {1, 2, 3, 4},
          .flags = {true, false, true},
          .words = {0x1234, 0xffff},
          .quads = {1, ~uint64_t{0}, 3},
          .signed_words = {-1, 0x7fffffff},
          .channels = {Channel{1, true, Mode::kOneShot}, Channel{}, Channel{3, false, Mode::kPeriodic}},
          .list = {Channel{7, true, Mode::kOff}},
          .single = Channel{9, true, Mode::kPeriodic}};
}

std::vector<std::byte> save(const Everything& value) {
  StateWriter writer("test", 1);
  writer.field("all", value);
  return std::move(writer).finish();
}

std::string message(const Status& status) { return status ? "ok" : status.error().to_string(); }

// A file whose checksum is right although its bytes were changed.
void reseal(std::vector<std::byte>& file) {
  base::store_le<uint64_t>(file.data() + 16, file.size() - kHeaderBytes - kTrailerBytes);
  base::store_le<uint32_t>(file.data() + file.size() - 4, crc32(std::span(file).first(file.size() - 4)));
}

TEST(State, EverythingSurvivesTheRoundTrip) {
  const std::vector<std::byte> file = save(sample());
  auto reader = StateReader::open(file);
  ASSERT_TRUE(reader) << reader.error().to_string();
  Everything loaded;
  reader->field("all", loaded);
  EXPECT_EQ(message(reader->status()), "ok");
  EXPECT_EQ(loaded, sample());
  EXPECT_EQ(reader->name(), "test");
}

TEST(State, ChecksumIsTheIeeeOne) {
  EXPECT_EQ(crc32(std::as_bytes(std::span(std::string_view("123456789")))), 0xcbf43926u);
}

TEST(State, OrderOfFieldsDoesNotMatter) {
  StateWriter writer;
  writer.field("b", uint32_t{2});
  writer.field("a", uint32_t{1});
  const auto file = std::move(writer).finish();
  auto reader = StateReader::open(file);
  uint32_t a = 0, b = 0;
  reader->field("a", a);
  reader->field("b", b);
  EXPECT_TRUE(reader->ok());
  EXPECT_EQ(a, 1u);
  EXPECT_EQ(b, 2u);
  EXPECT_THAT(reader->field_names(), ::testing::ElementsAre("b", "a"));
  EXPECT_TRUE(reader->has("a"));
  EXPECT_FALSE(reader->has("c"));
}

TEST(State, MissingFieldIsNamedWithItsPath) {
  StateWriter writer("pc");
  writer.section("pit", 1, [](StateWriter& w) { w.field("count", uint32_t{5}); });
  const auto file = std::move(writer).finish();
  auto reader = StateReader::open(file);
  uint32_t count = 0, latch = 77;
  reader->section("pit", 1, [&](StateReader& r) {
    r.field("count", count);
    r.field("latch", latch);
  });
  EXPECT_EQ(count, 5u);
  EXPECT_EQ(latch, 77u);
  EXPECT_EQ(message(reader->status()), "field 'pc/pit/latch' is missing");
}

TEST(State, WrongTypeIsRefused) {
  StateWriter writer("pc");
  writer.field("count", uint32_t{5});
  const auto file = std::move(writer).finish();
  auto reader = StateReader::open(file);
  uint64_t count = 0;
  reader->field("count", count);
  EXPECT_EQ(message(reader->status()), "field 'pc/count' is of type u32, expected u64");
}

TEST(State, FirstErrorIsKeptAndStopsLoading) {
  StateWriter writer("pc");
  writer.field("here", uint32_t{5});
  const auto file = std::move(writer).finish();
  auto reader = StateReader::open(file);
  uint32_t value = 0;
  reader->field("first", value);
  reader->field("second", value);
  reader->field("here", value);
  EXPECT_EQ(value, 0u);
  EXPECT_EQ(message(reader->status()), "field 'pc/first' is missing");
}

TEST(State, NewerSectionIsRefusedAndOlderOneLoads) {
  StateWriter writer("pc");
  writer.section("pit", 3, [](StateWriter& w) { w.field("count", uint32_t{5}); });
  const auto file = std::move(writer).finish();
  {
    auto reader = StateReader::open(file);
    bool called = false;
    reader->section("pit", 2, [&](StateReader&) { called = true; });
    EXPECT_FALSE(called);
    EXPECT_EQ(message(reader->status()), "section 'pc/pit' has version 3; this build knows versions up to 2");
    EXPECT_EQ(reader->status().error().code(), ErrorCode::kUnsupported);
  }
  auto reader = StateReader::open(file);
  uint32_t count = 0, added = 42;
  reader->section("pit", 4, [&](StateReader& r) {
    EXPECT_EQ(r.version(), 3u);
    r.field("count", count);
    r.field_since(4, "added", added);
    r.field_since(3, "count", count);
  });
  EXPECT_EQ(message(reader->status()), "ok");
  EXPECT_EQ(added, 42u);
}

TEST(State, NewerRootAndOtherFormatAreRefused) {
  StateWriter writer("pc", 7);
  auto file = std::move(writer).finish();
  EXPECT_EQ(StateReader::open(file, 6).error().code(), ErrorCode::kUnsupported);
  EXPECT_TRUE(StateReader::open(file, 7));
  base::store_le<uint32_t>(file.data() + 8, 2);
  reseal(file);
  EXPECT_THAT(StateReader::open(file, 7).error().to_string(), HasSubstr("format 2"));
}

TEST(State, SignedNumberOutOfRangeIsRefused) {
  StateWriter writer;
  writer.field("value", int64_t{-129});
  const auto file = std::move(writer).finish();
  auto reader = StateReader::open(file);
  int8_t value = 0;
  reader->field("value", value);
  EXPECT_THAT(message(reader->status()), HasSubstr("out of range"));
}

TEST(State, ArrayOfAnotherLengthIsRefused) {
  StateWriter writer("pc");
  writer.field("irr", std::array<uint32_t, 8>{});
  writer.field("channels", std::array<Channel, 2>{});
  const auto file = std::move(writer).finish();
  {
    auto reader = StateReader::open(file);
    std::array<uint32_t, 7> irr{};
    reader->field("irr", irr);
    EXPECT_EQ(message(reader->status()), "field 'pc/irr' is 32 bytes long, expected 28");
  }
  auto reader = StateReader::open(file);
  std::array<Channel, 3> channels{};
  reader->field("channels", channels);
  EXPECT_THAT(message(reader->status()), HasSubstr("wrong number of elements"));
}

TEST(State, ListThatLiesAboutItsCountAllocatesNothing) {
  StateWriter writer("pc");
  writer.section("list", 2, [](StateWriter& w) { w.field("count", uint64_t{1} << 60); });
  const auto file = std::move(writer).finish();
  auto reader = StateReader::open(file);
  std::vector<Channel> list;
  reader->field("list", list);
  EXPECT_THAT(message(reader->status()), HasSubstr("more elements than it holds"));
  EXPECT_TRUE(list.empty());
}

TEST(State, ValidateNamesTheSection) {
  StateWriter writer("pc");
  const auto file = std::move(writer).finish();
  auto reader = StateReader::open(file);
  reader->validate(true, "is fine");
  EXPECT_TRUE(reader->ok());
  reader->validate(false, "has an impossible mode");
  EXPECT_EQ(message(reader->status()), "section 'pc' has an impossible mode");
}

TEST(State, AnySingleFlippedBitIsNoticed) {
  auto file = save(sample());
  for (size_t bit = 0; bit < file.size() * 8; bit += 7) {
    file[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_FALSE(StateReader::open(file)) << "bit " << bit;
    file[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
  }
  EXPECT_TRUE(StateReader::open(file));
}

TEST(State, AnyTruncationIsNoticed) {
  const auto file = save(sample());
  for (size_t length = 0; length < file.size(); ++length) {
    EXPECT_FALSE(StateReader::open(std::span(file).first(length)));
  }
}

// With the checksum put right every corruption must end in a value or an error, never out of bounds (asan).
TEST(State, CorruptionBehindTheChecksumIsContained) {
  const auto good = save(sample());
  unsigned refused = 0;
  for (size_t at = kHeaderBytes; at + kTrailerBytes < good.size(); ++at) {
    for (uint8_t value : {0x00, 0x01, 0x7f, 0xff}) {
      auto file = good;
      file[at] = std::byte{value};
      reseal(file);
      auto reader = StateReader::open(file);
      if (!reader) {
        ++refused;
        continue;
      }
      Everything loaded;
      reader->field("all", loaded);
      if (!reader->ok()) ++refused;
    }
  }
  EXPECT_GT(refused, good.size());
}

TEST(State, DepthIsLimited) {
  // Built by hand: the writer refuses to. Each level is a section named "n" around the next one.
  std::vector<std::byte> body(4);
  for (unsigned level = 0; level < kMaxDepth + 4; ++level) {
    std::vector<std::byte> outer = {std::byte{1},
                                    {},
                                    {},
                                    {},
                                    static_cast<std::byte>(FieldType::kSection),
                                    std::byte{1},
                                    static_cast<std::byte>('n')};
    outer.resize(outer.size() + 4);
    base::store_le<uint32_t>(outer.data() + outer.size() - 4, static_cast<uint32_t>(body.size()));
    outer.insert(outer.end(), body.begin(), body.end());
    body = std::move(outer);
  }
  std::vector<std::byte> file = std::move(StateWriter("r")).finish();
  file.resize(kHeaderBytes + 2);
  file.insert(file.end(), body.begin(), body.end());
  file.resize(file.size() + 4);
  reseal(file);
  auto reader = StateReader::open(file);
  ASSERT_TRUE(reader);
  unsigned depth = 1;
  std::optional<StateReader> at = *reader;
  while ((at = at->open_section("n", 1))) ++depth;
  EXPECT_EQ(depth, kMaxDepth);
  EXPECT_THAT(message(reader->status()), HasSubstr("nested too deeply"));
}

TEST(StateDeathTest, SameNameTwiceIsOurBug) {
  StateWriter writer;
  writer.field("a", uint8_t{1});
  EXPECT_DEATH(writer.field("a", uint8_t{1}), "check failed");
}

}  // namespace
}  // namespace rhea::state
