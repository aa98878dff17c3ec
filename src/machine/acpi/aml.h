// SPDX-License-Identifier: Apache-2.0
// A small builder of ACPI machine language: each function returns the encoding of one term.
// Spec: [ACPI-6.5 20]
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

#include "machine/byte_image.h"

namespace rhea::machine::aml {

using Term = ByteImage;
using Terms = std::vector<Term>;

// A list of terms in order.
Term sequence(const Terms& terms);

// Data. Names are ASL paths: "\\_SB.PCI0", "_HID", "PICF"; segments shorter than four are padded with '_'.
Term integer(uint64_t value);
Term string(std::string_view text);
Term eisa_id(std::string_view id);  // "PNP0A08"
Term buffer(std::span<const std::byte> data);
Term uuid(std::string_view text);  // a 16-byte buffer in ToUUID order
Term package(const Terms& elements);
Term path(std::string_view name);

// Named objects.
Term name(std::string_view name, const Term& value);
Term scope(std::string_view name, const Terms& body);
Term device(std::string_view name, const Terms& body);
enum class Serialized : bool { kNo, kYes };
Term method(std::string_view name, unsigned arguments, Serialized serialized, const Terms& body);

// Statements and expressions. `target` terms are arg(), local() or path().
Term arg(unsigned index);
Term local(unsigned index);
Term store(const Term& value, const Term& target);
Term bit_and(const Term& left, const Term& right, const Term& target);
Term bit_or(const Term& left, const Term& right, const Term& target);
Term equal(const Term& left, const Term& right);
Term if_else(const Term& condition, const Terms& then_body, const Terms& else_body = {});
Term return_value(const Term& value);
Term create_dword_field(const Term& buffer, uint64_t byte_index, std::string_view name);

// Resource templates. [ACPI-6.5 6.4]
class Resources {
 public:
  Resources& io(uint16_t port, uint8_t length);         // fixed ports, 16-bit decode
  Resources& irq(unsigned isa_irq);                     // edge, active high, exclusive
  Resources& memory32(uint32_t base, uint32_t length);  // fixed, read-write
  Resources& bus_numbers(uint16_t first, uint16_t last);
  Resources& io_window(uint16_t first, uint16_t last);        // producer: forwarded to the bus
  Resources& memory_window(uint32_t first, uint32_t last);    // producer, not cacheable
  Resources& memory_window64(uint64_t first, uint64_t last);  // producer, not cacheable
  Resources& level_interrupt(uint32_t gsi);                   // consumer, level, active high, shared
  Term buffer() const;                                        // with its end tag

 private:
  ByteImage bytes_;
};

}  // namespace rhea::machine::aml
