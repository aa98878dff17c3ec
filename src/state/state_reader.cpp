// SPDX-License-Identifier: Apache-2.0
// Decoding of sections and fields, with every length taken as a claim.
#include "state/state_reader.h"

#include <fmt/format.h>

#include <algorithm>

namespace rhea::state {
namespace {

// A name from the file, fit to be printed.
std::string printable(std::string_view name) {
  std::string out;
  for (char c : name) out += c > 0x20 && c < 0x7f && c != '\'' ? c : '?';
  return out;
}

bool known_type(uint8_t type) { return field_type_name(static_cast<FieldType>(type)) != "unknown type"; }

}  // namespace

Result<StateReader> StateReader::open(std::span<const std::byte> file, uint32_t newest_version) {
  if (file.size() < kHeaderBytes + kTrailerBytes || std::memcmp(file.data(), kMagic.data(), kMagic.size()) != 0) {
    return fail(ErrorCode::kCorrupt, "this is not a Rhea state file");
  }
  const uint32_t format = base::load_le<uint32_t>(file.data() + 8);
  if (format != kFormatVersion) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("the state file has format {}; this build reads format {}", format, kFormatVersion));
  }
  if (base::load_le<uint64_t>(file.data() + 16) != file.size() - kHeaderBytes - kTrailerBytes) {
    return fail(ErrorCode::kCorrupt, "the state file is truncated or has bytes appended");
  }
  const auto checked = file.first(file.size() - kTrailerBytes);
  if (crc32(checked) != base::load_le<uint32_t>(file.data() + checked.size())) {
    return fail(ErrorCode::kCorrupt, "the state file's checksum is wrong");
  }
  auto root = checked.subspan(kHeaderBytes);
  const size_t name_bytes = root.empty() ? 0 : std::to_integer<size_t>(root[0]);
  if (name_bytes == 0 || root.size() - 1 < name_bytes) {
    return fail(ErrorCode::kCorrupt, "the state file's root section has no name");
  }
  StateReader reader(std::make_shared<Shared>(),
                     printable({reinterpret_cast<const char*>(root.data() + 1), name_bytes}), 1);
  if (!reader.parse(root.subspan(1 + name_bytes), newest_version)) return fail(*reader.shared_->error);
  return reader;
}

bool StateReader::parse(std::span<const std::byte> payload, uint32_t newest_version) {
  auto corrupt = [&](std::string_view problem) {
    fail_with(Error(ErrorCode::kCorrupt, fmt::format("section '{}' {}", path_, problem)));
    return false;
  };
  if (payload.size() < 4) return corrupt("is too short");
  version_ = base::load_le<uint32_t>(payload.data());
  if (version_ > newest_version) {
    fail_with(
        Error(ErrorCode::kUnsupported, fmt::format("section '{}' has version {}; this build knows versions up to {}",
                                                   path_, version_, newest_version)));
    return false;
  }
  payload = payload.subspan(4);
  while (!payload.empty()) {
    if (payload.size() < 2) return corrupt("ends inside a field");
    const uint8_t type = std::to_integer<uint8_t>(payload[0]);
    const size_t name_bytes = std::to_integer<size_t>(payload[1]);
    if (name_bytes == 0) return corrupt("has a field without a name");
    if (payload.size() < 2 + name_bytes + 4) return corrupt("ends inside a field");
    const size_t length = base::load_le<uint32_t>(payload.data() + 2 + name_bytes);
    const std::string_view name(reinterpret_cast<const char*>(payload.data() + 2), name_bytes);
    payload = payload.subspan(2 + name_bytes + 4);
    if (length > payload.size()) return corrupt("has a field that is longer than the section");
    if (!known_type(type)) return corrupt("has a field of unknown type");
    fields_.push_back({.name = name, .type = static_cast<FieldType>(type), .payload = payload.first(length)});
    payload = payload.subspan(length);
  }
  by_name_.resize(fields_.size());
  for (size_t i = 0; i < by_name_.size(); ++i) by_name_[i] = static_cast<uint32_t>(i);
  std::ranges::sort(by_name_, {}, [&](uint32_t index) { return fields_[index].name; });
  for (size_t i = 1; i < by_name_.size(); ++i) {
    if (fields_[by_name_[i - 1]].name == fields_[by_name_[i]].name) return corrupt("has two fields of the same name");
  }
  return true;
}

const StateReader::Field* StateReader::find(std::string_view name) const {
  const auto at = std::ranges::lower_bound(by_name_, name, {}, [&](uint32_t index) { return fields_[index].name; });
  if (at == by_name_.end() || fields_[*at].name != name) return nullptr;
  return &fields_[*at];
}

const StateReader::Field* StateReader::expect(std::string_view name, FieldType type) {
  if (!ok()) return nullptr;
  const Field* found = find(name);
  if (found == nullptr) {
    report(ErrorCode::kCorrupt, name, "is missing");
    return nullptr;
  }
  if (found->type != type) {
    report(ErrorCode::kCorrupt, name,
           fmt::format("is of type {}, expected {}", field_type_name(found->type), field_type_name(type)));
    return nullptr;
  }
  return found;
}

void StateReader::report(ErrorCode code, std::string_view name, std::string_view problem) {
  fail_with(Error(code, fmt::format("field '{}/{}' {}", path_, printable(name), problem)));
}

void StateReader::report_length(std::string_view name, size_t found, size_t expected) {
  report(ErrorCode::kCorrupt, name, fmt::format("is {} bytes long, expected {}", found, expected));
}

void StateReader::fail_with(Error error) {
  if (ok()) shared_->error = std::move(error);
}

void StateReader::validate(bool condition, std::string_view what) {
  if (!condition) fail_with(Error(ErrorCode::kCorrupt, fmt::format("section '{}' {}", path_, what)));
}

Status StateReader::status() const {
  if (!ok()) return fail(*shared_->error);
  return {};
}

std::vector<std::string_view> StateReader::field_names() const {
  std::vector<std::string_view> names;
  names.reserve(fields_.size());
  for (const Field& each : fields_) names.push_back(each.name);
  return names;
}

std::optional<StateReader> StateReader::open_section(std::string_view name, uint32_t newest_version) {
  const Field* found = expect(name, FieldType::kSection);
  if (found == nullptr) return std::nullopt;
  StateReader nested(shared_, fmt::format("{}/{}", path_, printable(name)), depth_ + 1);
  if (nested.depth_ > kMaxDepth) {
    report(ErrorCode::kCorrupt, name, "is nested too deeply");
    return std::nullopt;
  }
  if (!nested.parse(found->payload, newest_version)) return std::nullopt;
  return nested;
}

}  // namespace rhea::state
