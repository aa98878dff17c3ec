// SPDX-License-Identifier: Apache-2.0
// Guest memory by linear and by physical address, as the system functions and the slow paths access it.
#include "cpu/lapic.h"
#include "dbt/system/internal.h"

namespace rhea::dbt {

namespace {

// Guest RAM may be misaligned, changes under us, and holds any type.
typedef volatile uint16_t __attribute__((aligned(1), may_alias)) Loose16;
typedef volatile uint32_t __attribute__((aligned(1), may_alias)) Loose32;
typedef volatile uint64_t __attribute__((aligned(1), may_alias)) Loose64;

constexpr uint64_t kPageMask = memory::kPageSize - 1;

// Bytes of an access before the end of the first page.
unsigned first_part(uint64_t linear, unsigned size_bytes) {
  uint64_t room = memory::kPageSize - (linear & kPageMask);
  return size_bytes <= room ? size_bytes : static_cast<unsigned>(room);
}

bool bus_size(unsigned size_bytes) { return size_bytes == 1 || size_bytes == 2 || size_bytes == 4 || size_bytes == 8; }

struct PhysicalSpan {
  const io::Range* range = nullptr;
  std::byte* host = nullptr;  // RAM or ROM that holds all of it
};

bool in_local_apic(const Context& context, uint64_t physical) {
  return ((physical & ~kPageMask) | 1) == context.apic_page;
}

PhysicalSpan locate(const Context& context, uint64_t physical, uint64_t size_bytes) {
  if (in_local_apic(context, physical)) return {};
  const io::Range* range = find_range(context, physical);
  if (range == nullptr || range->kind == io::RangeKind::kMmio || range->end() - physical < size_bytes)
    return {range, nullptr};
  return {range, range->host + (physical - range->start)};
}

}  // namespace

const io::Range* find_range(const Context& context, uint64_t physical) {
  const std::vector<io::Range>& ranges = context.ranges ? *context.ranges : context.physical->view().ranges();
  size_t low = 0, high = ranges.size();
  while (low < high) {
    size_t middle = (low + high) / 2;
    const io::Range& range = ranges[middle];
    if (physical < range.start) {
      high = middle;
    } else if (physical - range.start >= range.size_bytes) {
      low = middle + 1;
    } else {
      return &range;
    }
  }
  return nullptr;
}

// Each processor has its own local APIC, where its IA32_APIC_BASE says, before anything else that lies there.
// [SDM-3A 11.4.4]
uint64_t bus_read(Context& context, uint64_t physical, unsigned size_bytes) {
  if (in_local_apic(context, physical)) return context.lapic->io_read(physical & kPageMask, size_bytes);
  return context.physical->read(physical, size_bytes);
}

void bus_write(Context& context, uint64_t physical, uint64_t value, unsigned size_bytes) {
  if (in_local_apic(context, physical))
    context.lapic->io_write(physical & kPageMask, value, size_bytes);
  else
    context.physical->write(physical, value, size_bytes);
}

void refresh_local_apic(Context& context) {
  constexpr uint64_t kGlobalEnable = uint64_t{1} << 11, kX2apic = uint64_t{1} << 10;
  const uint64_t base = context.lapic->apic_base();
  const bool mapped = (base & kGlobalEnable) && !(base & kX2apic);
  const uint64_t page = mapped ? (base & ~kPageMask) | 1 : 0;
  if (page == context.apic_page) return;
  context.apic_page = page;
  flush_tlb(context, {.kind = FlushRequest::Kind::kAll});
}

std::byte* ram_pointer(const Context& context, uint64_t physical, uint64_t size_bytes) {
  PhysicalSpan span = locate(context, physical, size_bytes);
  return span.host != nullptr && span.range->kind == io::RangeKind::kRam ? span.host : nullptr;
}

uint64_t load_host(const void* host, unsigned size_bytes) {
  switch (size_bytes) {
    case 1: return *static_cast<const volatile uint8_t*>(host);
    case 2: return *static_cast<const Loose16*>(host);
    case 4: return *static_cast<const Loose32*>(host);
    case 8: return *static_cast<const Loose64*>(host);
    default: break;
  }
  uint64_t value = 0;
  for (unsigned i = 0; i < size_bytes; ++i) value |= uint64_t{static_cast<const volatile uint8_t*>(host)[i]} << (8 * i);
  return value;
}

void store_host(void* host, uint64_t value, unsigned size_bytes) {
  switch (size_bytes) {
    case 1: *static_cast<volatile uint8_t*>(host) = static_cast<uint8_t>(value); return;
    case 2: *static_cast<Loose16*>(host) = static_cast<uint16_t>(value); return;
    case 4: *static_cast<Loose32*>(host) = static_cast<uint32_t>(value); return;
    case 8: *static_cast<Loose64*>(host) = value; return;
    default: break;
  }
  for (unsigned i = 0; i < size_bytes; ++i)
    static_cast<volatile uint8_t*>(host)[i] = static_cast<uint8_t>(value >> (8 * i));
}

void read_physical(Context& context, uint64_t physical, void* out, unsigned size_bytes) {
  if (PhysicalSpan span = locate(context, physical, size_bytes); span.host != nullptr) {
    if (bus_size(size_bytes)) {
      uint64_t value = load_host(span.host, size_bytes);
      store_host(out, value, size_bytes);
    } else {
      copy_bytes(out, span.host, size_bytes);
    }
    return;
  }
  with_vectors_saved(context, [&] {
    auto* bytes = static_cast<uint8_t*>(out);
    for (unsigned done = 0; done < size_bytes;) {
      unsigned chunk = bus_size(size_bytes) ? size_bytes : size_bytes % 8 == 0 ? 8 : 1;
      store_host(bytes + done, bus_read(context, physical + done, chunk), chunk);
      done += chunk;
    }
  });
}

void write_physical(Context& context, uint64_t physical, const void* data, unsigned size_bytes) {
  PhysicalSpan span = locate(context, physical, size_bytes);
  if (span.host != nullptr && span.range->kind == io::RangeKind::kRam) {
    if (bus_size(size_bytes)) {
      store_host(span.host, load_host(data, size_bytes), size_bytes);
    } else {
      copy_bytes(span.host, data, size_bytes);
    }
    note_store(context, physical, size_bytes);
    return;
  }
  // ROM without a handler ignores writes; the bus knows.
  with_vectors_saved(context, [&] {
    const auto* bytes = static_cast<const uint8_t*>(data);
    for (unsigned done = 0; done < size_bytes;) {
      unsigned chunk = bus_size(size_bytes) ? size_bytes : size_bytes % 8 == 0 ? 8 : 1;
      bus_write(context, physical + done, load_host(bytes + done, chunk), chunk);
      done += chunk;
    }
  });
}

Fallible<uint64_t> read_linear(Context& context, uint64_t linear, unsigned size_bytes, MmuIndex mmu) {
  if (const void* host = tlb_lookup(context, linear, size_bytes, Access::kRead, mmu))
    return load_host(host, size_bytes);
  uint64_t value = 0;
  GUEST_TRY(read_linear_bytes(context, linear, &value, size_bytes, mmu));
  return value;
}

Fallible<void> write_linear(Context& context, uint64_t linear, uint64_t value, unsigned size_bytes, MmuIndex mmu) {
  if (void* host = tlb_lookup(context, linear, size_bytes, Access::kWrite, mmu)) {
    store_host(host, value, size_bytes);
    return {};
  }
  return write_linear_bytes(context, linear, &value, size_bytes, mmu);
}

Fallible<void> read_linear_bytes(Context& context, uint64_t linear, void* out, unsigned size_bytes, MmuIndex mmu) {
  unsigned first = first_part(linear, size_bytes);
  Translation low = GUEST_TRY(translate(context, linear, Access::kRead, mmu));
  if (first == size_bytes) {
    note_data_access(context, linear, size_bytes, false);
    read_physical(context, low.physical, out, size_bytes);
    return {};
  }
  Translation high = GUEST_TRY(translate(context, wrap_linear(context, linear + first), Access::kRead, mmu));
  note_data_access(context, linear, size_bytes, false);
  read_physical(context, low.physical, out, first);
  read_physical(context, high.physical, static_cast<std::byte*>(out) + first, size_bytes - first);
  return {};
}

Fallible<void> write_linear_bytes(Context& context, uint64_t linear, const void* data, unsigned size_bytes,
                                  MmuIndex mmu) {
  unsigned first = first_part(linear, size_bytes);
  Translation low = GUEST_TRY(translate(context, linear, Access::kWrite, mmu));
  if (first == size_bytes) {
    note_data_access(context, linear, size_bytes, true);
    write_physical(context, low.physical, data, size_bytes);
    return {};
  }
  Translation high = GUEST_TRY(translate(context, wrap_linear(context, linear + first), Access::kWrite, mmu));
  note_data_access(context, linear, size_bytes, true);
  write_physical(context, low.physical, data, first);
  write_physical(context, high.physical, static_cast<const std::byte*>(data) + first, size_bytes - first);
  return {};
}

Fallible<void> probe_write(Context& context, uint64_t linear, unsigned size_bytes, MmuIndex mmu) {
  if (tlb_lookup(context, linear, size_bytes, Access::kWrite, mmu) != nullptr) return {};
  unsigned first = first_part(linear, size_bytes);
  GUEST_TRY(translate(context, linear, Access::kWrite, mmu));
  if (first < size_bytes) GUEST_TRY(translate(context, wrap_linear(context, linear + first), Access::kWrite, mmu));
  return {};
}

MmuIndex current_mmu(const Context& context) {
  if (context.state.cpl() == 3) return MmuIndex::kUser;
  bool smap = (context.state.cr4 & cpu::cr4::kSmap) && !(context.state.rflags & cpu::rflags::kAc);
  return smap ? MmuIndex::kSupervisor : MmuIndex::kSupervisorAc;
}

}  // namespace rhea::dbt
