// SPDX-License-Identifier: Apache-2.0
// Reads machine state back: fields by name, every length and type checked, the first error kept.
//
// The input is hostile: it comes from a file or from another host. Memory used is proportional to its size.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/endian.h"
#include "base/error.h"
#include "state/format.h"
#include "state/state_writer.h"

namespace rhea::state {

// One section. Errors are sticky: after the first one all calls leave their values alone, and status() of this
// reader and of all readers of the file tells it, with the path of the field ("pc/pit/channels/0/count").
class StateReader {
 public:
  static constexpr bool kLoading = true;

  // Checks header, length and checksum and opens the root section. `file` outlives the reader.
  // `newest_version`: the newest version of the root section that the caller understands.
  // Errors: kCorrupt, kUnsupported for a newer format or a newer version.
  static Result<StateReader> open(std::span<const std::byte> file, uint32_t newest_version = 1);

  const std::string& name() const { return path_; }
  uint32_t version() const { return version_; }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  // The names of all fields, in the file's order: so that a loader can refuse what it does not know.
  std::vector<std::string_view> field_names() const;

  // The field of this name and of exactly this type. A missing one, one of another type, a signed number out of
  // range or an array of another length (std::array) is an error. Enums are not range-checked: validate() them.
  template <class T>
  void field(std::string_view name, T& value);

  // A field that exists since version `since` of the section; in older sections the value is left alone.
  template <class T>
  void field_since(uint32_t since, std::string_view name, T& value) {
    if (version_ >= since) field(name, value);
  }

  // A nested section of a version up to `newest_version`; `body(StateReader&)` reads its fields. It is not
  // called if the section is missing or too new.
  template <class Body>
  void section(std::string_view name, uint32_t newest_version, Body&& body) {
    std::optional<StateReader> nested = open_section(name, newest_version);
    if (nested) std::forward<Body>(body)(*nested);
  }
  std::optional<StateReader> open_section(std::string_view name, uint32_t newest_version);

  // For what a type cannot say: an error naming the section unless `condition` holds.
  void validate(bool condition, std::string_view what);
  void fail_with(Error error);

  bool ok() const { return !shared_->error.has_value(); }
  Status status() const;

 private:
  struct Field {
    std::string_view name;
    FieldType type;
    std::span<const std::byte> payload;
  };
  struct Shared {
    std::optional<Error> error;
  };
  StateReader(std::shared_ptr<Shared> shared, std::string path, unsigned depth)
      : shared_(std::move(shared)), path_(std::move(path)), depth_(depth) {}

  bool parse(std::span<const std::byte> payload, uint32_t newest_version);
  const Field* find(std::string_view name) const;
  const Field* expect(std::string_view name, FieldType type);
  void report(ErrorCode code, std::string_view name, std::string_view problem);
  void report_length(std::string_view name, size_t found, size_t expected);
  template <class T>
  bool assign_scalar(std::string_view name, uint64_t raw, T& value);
  template <class Container>
  void read_array(std::string_view name, Container& values);
  template <class Container>
  void read_list(std::string_view name, Container& values);

  std::shared_ptr<Shared> shared_;
  std::string path_;
  unsigned depth_ = 0;
  uint32_t version_ = 0;
  std::vector<Field> fields_;      // in the file's order
  std::vector<uint32_t> by_name_;  // indices into fields_, sorted by name
};

template <class T>
void StateReader::field(std::string_view name, T& value) {
  if (!ok()) return;
  if constexpr (Scalar<T>) {
    const Field* found = expect(name, scalar_type<T>());
    if (found == nullptr) return;
    const size_t size_bytes = scalar_bytes(found->type);
    if (found->payload.size() != size_bytes) return report_length(name, found->payload.size(), size_bytes);
    uint64_t raw = 0;
    for (size_t i = 0; i < size_bytes; ++i) raw |= std::to_integer<uint64_t>(found->payload[i]) << (8 * i);
    assign_scalar(name, raw, value);
  } else if constexpr (std::same_as<T, std::string>) {
    const Field* found = expect(name, FieldType::kString);
    if (found == nullptr) return;
    value.assign(reinterpret_cast<const char*>(found->payload.data()), found->payload.size());
  } else if constexpr (internal::kIsStdArray<T> || internal::kIsVector<T>) {
    using Element = typename T::value_type;
    if constexpr (Scalar<Element>) {
      read_array(name, value);
    } else {
      read_list(name, value);
    }
  } else {
    section(name, described_version<T>(), [&](StateReader& reader) { describe_fields(reader, value); });
  }
}

template <class T>
bool StateReader::assign_scalar(std::string_view name, uint64_t raw, T& value) {
  if constexpr (std::is_enum_v<T>) {
    std::underlying_type_t<T> number{};
    if (!assign_scalar(name, raw, number)) return false;
    value = static_cast<T>(number);
  } else if constexpr (std::same_as<T, bool>) {
    if (raw > 1) {
      report(ErrorCode::kCorrupt, name, "is neither true nor false");
      return false;
    }
    value = raw != 0;
  } else {
    const T narrowed = static_cast<T>(raw);
    if constexpr (std::is_signed_v<T>) {
      if (static_cast<int64_t>(narrowed) != static_cast<int64_t>(raw)) {
        report(ErrorCode::kCorrupt, name, "is out of range");
        return false;
      }
    }
    value = narrowed;
  }
  return true;
}

template <class Container>
void StateReader::read_array(std::string_view name, Container& values) {
  using Element = typename Container::value_type;
  constexpr FieldType kType = array_type<Element>();
  constexpr size_t kElementBytes = kType == FieldType::kBytes ? 1 : scalar_bytes(kType);
  const Field* found = expect(name, kType);
  if (found == nullptr) return;
  const size_t count = found->payload.size() / kElementBytes;
  if (found->payload.size() % kElementBytes != 0) {
    return report_length(name, found->payload.size(), (count + 1) * kElementBytes);
  }
  Container loaded{};
  if constexpr (internal::kIsStdArray<Container>) {
    if (count != loaded.size()) return report_length(name, found->payload.size(), loaded.size() * kElementBytes);
  } else {
    loaded.resize(count);
  }
  for (size_t i = 0; i < count; ++i) {
    uint64_t raw = 0;
    for (size_t b = 0; b < kElementBytes; ++b) {
      raw |= std::to_integer<uint64_t>(found->payload[i * kElementBytes + b]) << (8 * b);
    }
    if (!assign_scalar(name, raw, loaded[i])) return;
  }
  values = std::move(loaded);
}

template <class Container>
void StateReader::read_list(std::string_view name, Container& values) {
  using Element = typename Container::value_type;
  section(name, described_version<Element>(), [&](StateReader& reader) {
    uint64_t count = 0;
    reader.field("count", count);
    if (!reader.ok()) return;
    if constexpr (internal::kIsStdArray<Container>) {
      reader.validate(count == values.size(), "has the wrong number of elements");
    } else {
      // Each element is a field of the section, so a larger count is a lie: checked before anything is allocated.
      reader.validate(count < reader.fields_.size(), "announces more elements than it holds");
      if (reader.ok()) values.resize(static_cast<size_t>(count));
    }
    for (size_t i = 0; reader.ok() && i < values.size(); ++i) reader.field(std::to_string(i), values[i]);
  });
}

}  // namespace rhea::state
