// SPDX-License-Identifier: Apache-2.0
// Parsing of device properties by their spec.
#include "io/device_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "base/strings.h"

namespace rhea::io {
namespace {

std::string_view type_name(PropertyType type) {
  switch (type) {
    case PropertyType::kBool: return "on|off";
    case PropertyType::kUint: return "NUMBER";
    case PropertyType::kSize: return "SIZE";
    case PropertyType::kString: return "STRING";
    case PropertyType::kChoice: return "CHOICE";
  }
  return "";
}

struct Assignment {
  std::string name;
  std::string value;
};

// Splits at commas outside double quotes; the quotes are dropped.
Result<std::vector<Assignment>> split_assignments(std::string_view text) {
  std::vector<Assignment> assignments;
  size_t at = 0;
  while (at < text.size()) {
    const size_t name_end = std::min(text.find_first_of("=,", at), text.size());
    Assignment assignment{.name = std::string(text.substr(at, name_end - at)), .value = "on"};
    at = name_end;
    if (at < text.size() && text[at] == '=') {
      assignment.value.clear();
      bool quoted = false;
      for (++at; at < text.size() && (quoted || text[at] != ','); ++at) {
        if (text[at] == '"') {
          quoted = !quoted;
        } else {
          assignment.value += text[at];
        }
      }
      if (quoted)
        return fail(ErrorCode::kInvalidArgument,
                    fmt::format("the value of '{}' lacks its closing quote", assignment.name));
    }
    ++at;  // the comma
    assignments.push_back(std::move(assignment));
  }
  return assignments;
}

}  // namespace

Result<PropertyValues::Value> PropertyValues::parse_value(const PropertySpec& property, std::string_view text) {
  Value value{.text = std::string(text)};
  switch (property.type) {
    case PropertyType::kString: return value;
    case PropertyType::kBool:
      if (text != "on" && text != "off")
        return fail(ErrorCode::kInvalidArgument, fmt::format("'{}' is neither on nor off", text));
      value.number = text == "on";
      return value;
    case PropertyType::kChoice:
      if (std::ranges::find(property.choices, text) == property.choices.end()) {
        return fail(ErrorCode::kInvalidArgument,
                    fmt::format("'{}' is none of {}{}", text, fmt::join(property.choices, ", "),
                                base::did_you_mean(text, property.choices)));
      }
      return value;
    case PropertyType::kUint:
    case PropertyType::kSize:
      value.number =
          RHEA_TRY(property.type == PropertyType::kUint ? base::parse_unsigned(text) : base::parse_size(text));
      if (value.number < property.min || value.number > property.max) {
        return fail(ErrorCode::kInvalidArgument,
                    fmt::format("'{}' is out of range ({} to {})", text, property.min, property.max));
      }
      return value;
  }
  return fail(ErrorCode::kInternal, "a property of no type");
}

Result<PropertyValues> PropertyValues::parse(const DeviceSpec& spec, std::string_view text) {
  PropertyValues values;
  for (const Assignment& assignment : RHEA_TRY(split_assignments(text))) {
    const auto property = std::ranges::find(spec.properties, assignment.name, &PropertySpec::name);
    if (property == spec.properties.end()) {
      std::vector<std::string_view> names;
      for (const PropertySpec& each : spec.properties) names.push_back(each.name);
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("device '{}' has no property '{}'{}", spec.name, assignment.name,
                              base::did_you_mean(assignment.name, names)));
    }
    auto value = parse_value(*property, assignment.value);
    if (!value)
      return fail(value.error().context(fmt::format("device '{}', property '{}'", spec.name, property->name)));
    if (!values.values_.emplace(property->name, std::move(*value)).second) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("device '{}': property '{}' is given twice", spec.name, property->name));
    }
  }
  for (const PropertySpec& property : spec.properties) {
    if (values.values_.contains(property.name)) continue;
    if (property.required) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("device '{}' needs its property '{}'", spec.name, property.name));
    }
    Value value;
    if (property.type == PropertyType::kString || !property.default_value.empty()) {
      auto parsed = parse_value(property, property.default_value);
      RHEA_CHECK(parsed.has_value());  // a spec whose default is malformed
      value = std::move(*parsed);
    }
    values.values_.emplace(property.name, std::move(value));
  }
  return values;
}

uint64_t PropertyValues::number(std::string_view name) const {
  const auto found = values_.find(name);
  RHEA_CHECK(found != values_.end());
  return found->second.number;
}

const std::string& PropertyValues::get_string(std::string_view name) const {
  const auto found = values_.find(name);
  RHEA_CHECK(found != values_.end());
  return found->second.text;
}

std::string describe_spec(const DeviceSpec& spec) {
  std::string out = fmt::format("{}: {}\n", spec.name, spec.help);
  for (const PropertySpec& property : spec.properties) {
    const std::string values = property.type == PropertyType::kChoice
                                   ? fmt::format("{}", fmt::join(property.choices, "|"))
                                   : std::string(type_name(property.type));
    out += fmt::format("  {}={}  {}", property.name, values, property.help);
    if (property.required) out += " (required)";
    if (!property.required && !property.default_value.empty())
      out += fmt::format(" (default: {})", property.default_value);
    out += '\n';
  }
  return out;
}

}  // namespace rhea::io
