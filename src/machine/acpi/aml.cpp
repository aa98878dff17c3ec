// SPDX-License-Identifier: Apache-2.0
// Encodings of ACPI machine language. [ACPI-6.5 20.2]
#include "machine/acpi/aml.h"

#include "base/check.h"

namespace rhea::machine::aml {
namespace {

constexpr uint8_t kZeroOp = 0x00, kOneOp = 0x01, kNameOp = 0x08, kBytePrefix = 0x0a, kWordPrefix = 0x0b,
                  kDWordPrefix = 0x0c, kStringPrefix = 0x0d, kQWordPrefix = 0x0e, kScopeOp = 0x10, kBufferOp = 0x11,
                  kPackageOp = 0x12, kMethodOp = 0x14, kDualNamePrefix = 0x2e, kMultiNamePrefix = 0x2f,
                  kExtPrefix = 0x5b, kLocal0Op = 0x60, kArg0Op = 0x68, kStoreOp = 0x70, kAndOp = 0x7b, kOrOp = 0x7d,
                  kCreateDWordFieldOp = 0x8a, kEqualOp = 0x93, kIfOp = 0xa0, kElseOp = 0xa1, kReturnOp = 0xa4,
                  kOnesOp = 0xff;
constexpr uint8_t kExtDeviceOp = 0x82;
constexpr uint8_t kNullName = 0x00;

// PkgLength counts itself. [ACPI-6.5 20.2.4]
void append_with_length(ByteImage& out, const ByteImage& body) {
  size_t length_bytes = body.size() + 1 < 0x40 ? 1 : body.size() + 2 < 0x1000 ? 2 : body.size() + 3 < 0x100000 ? 3 : 4;
  size_t total = body.size() + length_bytes;
  RHEA_CHECK(total < (1u << 28));
  if (length_bytes == 1) {
    out.u8(static_cast<uint8_t>(total));
  } else {
    out.u8(static_cast<uint8_t>(((length_bytes - 1) << 6) | (total & 0xf)));
    for (size_t i = 0; i < length_bytes - 1; ++i) out.u8(static_cast<uint8_t>(total >> (4 + 8 * i)));
  }
  out.bytes(body.span());
}

Term with_length(std::initializer_list<uint8_t> opcode, const ByteImage& body) {
  Term term;
  for (uint8_t byte : opcode) term.u8(byte);
  append_with_length(term, body);
  return term;
}

Term two_operands(uint8_t opcode, const Term& left, const Term& right) {
  return std::move(Term().u8(opcode).bytes(left.span()).bytes(right.span()));
}

}  // namespace

Term sequence(const Terms& terms) {
  Term all;
  for (const Term& term : terms) all.bytes(term.span());
  return all;
}

Term integer(uint64_t value) {
  Term term;
  if (value == 0) return std::move(term.u8(kZeroOp));
  if (value == 1) return std::move(term.u8(kOneOp));
  if (value == ~uint64_t{0}) return std::move(term.u8(kOnesOp));
  if (value <= 0xff) return std::move(term.u8(kBytePrefix).u8(static_cast<uint8_t>(value)));
  if (value <= 0xffff) return std::move(term.u8(kWordPrefix).u16(static_cast<uint16_t>(value)));
  if (value <= 0xffffffff) return std::move(term.u8(kDWordPrefix).u32(static_cast<uint32_t>(value)));
  return std::move(term.u8(kQWordPrefix).u64(value));
}

Term string(std::string_view text) { return std::move(Term().u8(kStringPrefix).text(text).u8(0)); }

// Three letters of five bits, four hexadecimal digits, big-endian. [ACPI-6.5 19.6.36]
Term eisa_id(std::string_view id) {
  RHEA_CHECK(id.size() == 7);
  uint32_t value = 0;
  for (size_t i = 0; i < 3; ++i) value = (value << 5) | static_cast<uint32_t>(id[i] - '@');
  for (size_t i = 3; i < 7; ++i)
    value = (value << 4) | static_cast<uint32_t>(id[i] <= '9' ? id[i] - '0' : id[i] - 'A' + 10);
  return std::move(Term().u8(kDWordPrefix).u32(__builtin_bswap32(value)));
}

Term buffer(std::span<const std::byte> data) {
  return with_length({kBufferOp}, sequence({integer(data.size()), std::move(Term().bytes(data))}));
}

Term uuid(std::string_view text) {
  // Byte positions of the textual form "aabbccdd-eeff-gghh-iijj-kkllmmnnoopp". [ACPI-6.5 19.6.142]
  constexpr uint8_t kPositions[16] = {6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34};
  RHEA_CHECK(text.size() == 36);
  auto digit = [](char c) { return static_cast<uint8_t>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10); };
  ByteImage bytes;
  for (uint8_t position : kPositions)
    bytes.u8(static_cast<uint8_t>(digit(text[position]) << 4 | digit(text[position + 1])));
  return buffer(bytes.span());
}

Term package(const Terms& elements) {
  RHEA_CHECK(elements.size() <= 255);
  Term body;
  body.u8(static_cast<uint8_t>(elements.size())).bytes(sequence(elements).span());
  return with_length({kPackageOp}, body);
}

Term path(std::string_view name) {
  Term term;
  while (!name.empty() && (name.front() == '\\' || name.front() == '^')) {
    term.u8(static_cast<uint8_t>(name.front()));
    name.remove_prefix(1);
  }
  std::vector<std::string_view> segments;
  while (!name.empty()) {
    size_t dot = name.find('.');
    segments.push_back(name.substr(0, dot));
    name.remove_prefix(dot == std::string_view::npos ? name.size() : dot + 1);
  }
  if (segments.empty()) return std::move(term.u8(kNullName));
  if (segments.size() == 2) term.u8(kDualNamePrefix);
  if (segments.size() > 2) term.u8(kMultiNamePrefix).u8(static_cast<uint8_t>(segments.size()));
  for (std::string_view segment : segments) term.padded_text(segment, 4, '_');
  return term;
}

Term name(std::string_view name, const Term& value) {
  return std::move(Term().u8(kNameOp).bytes(path(name).span()).bytes(value.span()));
}

Term scope(std::string_view name, const Terms& body) {
  return with_length({kScopeOp}, sequence({path(name), sequence(body)}));
}

Term device(std::string_view name, const Terms& body) {
  return with_length({kExtPrefix, kExtDeviceOp}, sequence({path(name), sequence(body)}));
}

Term method(std::string_view name, unsigned arguments, Serialized serialized, const Terms& body) {
  Term content = path(name);
  content.u8(static_cast<uint8_t>(arguments | (serialized == Serialized::kYes ? 8 : 0))).bytes(sequence(body).span());
  return with_length({kMethodOp}, content);
}

Term arg(unsigned index) { return std::move(Term().u8(static_cast<uint8_t>(kArg0Op + index))); }
Term local(unsigned index) { return std::move(Term().u8(static_cast<uint8_t>(kLocal0Op + index))); }
Term store(const Term& value, const Term& target) { return two_operands(kStoreOp, value, target); }
Term bit_and(const Term& left, const Term& right, const Term& target) {
  return std::move(two_operands(kAndOp, left, right).bytes(target.span()));
}
Term bit_or(const Term& left, const Term& right, const Term& target) {
  return std::move(two_operands(kOrOp, left, right).bytes(target.span()));
}
Term equal(const Term& left, const Term& right) { return two_operands(kEqualOp, left, right); }

Term if_else(const Term& condition, const Terms& then_body, const Terms& else_body) {
  Term term = with_length({kIfOp}, sequence({condition, sequence(then_body)}));
  if (!else_body.empty()) term.bytes(with_length({kElseOp}, sequence(else_body)).span());
  return term;
}

Term return_value(const Term& value) { return std::move(Term().u8(kReturnOp).bytes(value.span())); }

Term create_dword_field(const Term& buffer, uint64_t byte_index, std::string_view name) {
  return std::move(two_operands(kCreateDWordFieldOp, buffer, integer(byte_index)).bytes(path(name).span()));
}

// ---- resource templates ----
namespace {

constexpr uint8_t kSmallIrq = 0x22, kSmallIo = 0x47, kEndTag = 0x79;
constexpr uint8_t kLargeMemory32Fixed = 0x86, kLargeDWordSpace = 0x87, kLargeWordSpace = 0x88, kLargeInterrupt = 0x89,
                  kLargeQWordSpace = 0x8a;
constexpr uint8_t kSpaceMemory = 0, kSpaceIo = 1, kSpaceBus = 2;
constexpr uint8_t kMinMaxFixed = 0x0c;  // producer, positive decode
constexpr uint8_t kMemoryReadWrite = 0x01, kIoEntireRange = 0x03;

}  // namespace

Resources& Resources::io(uint16_t port, uint8_t length) {
  bytes_.u8(kSmallIo).u8(1).u16(port).u16(port).u8(1).u8(length);
  return *this;
}

Resources& Resources::irq(unsigned isa_irq) {
  bytes_.u8(kSmallIrq).u16(static_cast<uint16_t>(1u << isa_irq));
  return *this;
}

Resources& Resources::memory32(uint32_t base, uint32_t length) {
  bytes_.u8(kLargeMemory32Fixed).u16(9).u8(1).u32(base).u32(length);
  return *this;
}

Resources& Resources::bus_numbers(uint16_t first, uint16_t last) {
  bytes_.u8(kLargeWordSpace).u16(13).u8(kSpaceBus).u8(kMinMaxFixed).u8(0);
  bytes_.u16(0).u16(first).u16(last).u16(0).u16(static_cast<uint16_t>(last - first + 1));
  return *this;
}

Resources& Resources::io_window(uint16_t first, uint16_t last) {
  bytes_.u8(kLargeWordSpace).u16(13).u8(kSpaceIo).u8(kMinMaxFixed).u8(kIoEntireRange);
  bytes_.u16(0).u16(first).u16(last).u16(0).u16(static_cast<uint16_t>(last - first + 1));
  return *this;
}

Resources& Resources::memory_window(uint32_t first, uint32_t last) {
  bytes_.u8(kLargeDWordSpace).u16(23).u8(kSpaceMemory).u8(kMinMaxFixed).u8(kMemoryReadWrite);
  bytes_.u32(0).u32(first).u32(last).u32(0).u32(last - first + 1);
  return *this;
}

Resources& Resources::memory_window64(uint64_t first, uint64_t last) {
  bytes_.u8(kLargeQWordSpace).u16(43).u8(kSpaceMemory).u8(kMinMaxFixed).u8(kMemoryReadWrite);
  bytes_.u64(0).u64(first).u64(last).u64(0).u64(last - first + 1);
  return *this;
}

Resources& Resources::level_interrupt(uint32_t gsi) {
  constexpr uint8_t kConsumer = 1, kShared = 8;
  bytes_.u8(kLargeInterrupt).u16(6).u8(kConsumer | kShared).u8(1).u32(gsi);
  return *this;
}

Term Resources::buffer() const {
  ByteImage bytes = bytes_;
  bytes.u8(kEndTag).u8(0);  // checksum 0: not checked
  return aml::buffer(bytes.span());
}

}  // namespace rhea::machine::aml
