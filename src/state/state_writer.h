// SPDX-License-Identifier: Apache-2.0
// Writes machine state: versioned sections of named, typed fields.
//
// The description of a struct is written once and serves StateWriter and StateReader alike:
//
//   struct PitChannel {
//     uint32_t count = 0;
//     bool gate = false;
//     template <class Archive>
//     static void describe(Archive& archive, auto& self) {
//       archive.field("count", self.count);
//       archive.field("gate", self.gate);
//     }
//   };
//   void Pit::save_state(state::StateWriter& writer) const { writer.field("channels", channels_); }
//   Status Pit::load_state(state::StateReader& reader) {
//     reader.field("channels", channels_);
//     return reader.status();
//   }
//
// The machine opens one section per device, named by the device's instance and versioned by its DeviceSpec;
// Device::save_state writes fields straight into it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "state/format.h"

namespace rhea::state {

class StateWriter {
 public:
  static constexpr bool kLoading = false;

  // `name` and `version` of the root section.
  explicit StateWriter(std::string_view name = "rhea", uint32_t version = 1);

  // One field. Names are unique within a section, 1 to 255 bytes. Any scalar, enum, string, vector or array of
  // scalars, struct with a describe(), and arrays and vectors of such structs.
  template <class T>
  void field(std::string_view name, const T& value);

  // A field that sections older than `since` lack; the reader then leaves the value alone.
  template <class T>
  void field_since(uint32_t since, std::string_view name, const T& value) {
    (void)since;
    field(name, value);
  }

  // A nested section; `body(StateWriter&)` writes its fields.
  template <class Body>
  void section(std::string_view name, uint32_t version, Body&& body) {
    begin_section(name, version);
    std::forward<Body>(body)(*this);
    end_section();
  }
  void begin_section(std::string_view name, uint32_t version);
  void end_section();

  // The version being written; for descriptions that ask (readers see the version found).
  uint32_t version() const { return open_.back().version; }

  // The finished file. All sections but the root are closed.
  std::vector<std::byte> finish() &&;

 private:
  struct OpenSection {
    size_t length_at;  // where the field's length is patched in
    uint32_t version;
    std::set<std::string, std::less<>> names;
  };
  void begin_field(FieldType type, std::string_view name, size_t length);
  void put(uint64_t value, size_t size_bytes);
  void put_raw(std::span<const std::byte> data);
  template <Scalar T>
  void put_array(std::string_view name, std::span<const T> values);
  template <class T>
  void put_list(std::string_view name, std::span<const T> values);

  std::vector<std::byte> out_;
  std::vector<OpenSection> open_;
};

namespace internal {
template <class T>
inline constexpr bool kIsStdArray = false;
template <class T, size_t N>
inline constexpr bool kIsStdArray<std::array<T, N>> = true;
template <class T>
inline constexpr bool kIsVector = false;
template <class T, class A>
inline constexpr bool kIsVector<std::vector<T, A>> = true;
}  // namespace internal

template <class T>
void StateWriter::field(std::string_view name, const T& value) {
  if constexpr (Scalar<T>) {
    constexpr FieldType kType = scalar_type<T>();
    begin_field(kType, name, scalar_bytes(kType));
    put(static_cast<uint64_t>(value), scalar_bytes(kType));
  } else if constexpr (std::same_as<T, std::string>) {
    begin_field(FieldType::kString, name, value.size());
    put_raw(std::as_bytes(std::span(value)));
  } else if constexpr (internal::kIsStdArray<T> || internal::kIsVector<T>) {
    using Element = typename T::value_type;
    static_assert(!std::same_as<T, std::vector<bool>>, "use a vector of uint8_t");
    if constexpr (std::same_as<Element, std::byte> || Scalar<Element>) {
      put_array<Element>(name, std::span<const Element>(value));
    } else {
      put_list<Element>(name, std::span<const Element>(value));
    }
  } else {
    section(name, described_version<T>(), [&](StateWriter& writer) { describe_fields(writer, value); });
  }
}

template <Scalar T>
void StateWriter::put_array(std::string_view name, std::span<const T> values) {
  constexpr FieldType kType = array_type<T>();
  if constexpr (kType == FieldType::kBytes) {
    begin_field(kType, name, values.size());
    put_raw(std::as_bytes(values));
  } else {
    begin_field(kType, name, values.size() * scalar_bytes(kType));
    for (const T& value : values) put(static_cast<uint64_t>(value), scalar_bytes(kType));
  }
}

template <class T>
void StateWriter::put_list(std::string_view name, std::span<const T> values) {
  section(name, described_version<T>(), [&](StateWriter& writer) {
    writer.field("count", static_cast<uint64_t>(values.size()));
    for (size_t i = 0; i < values.size(); ++i) writer.field(std::to_string(i), values[i]);
  });
}

}  // namespace rhea::state
