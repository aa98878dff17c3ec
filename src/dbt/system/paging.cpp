// SPDX-License-Identifier: Apache-2.0
// The guest's page tables: 32-bit, PAE and 4-level walks with all permission and reserved-bit checks.
//
// Spec: SDM-3A chapter 4. Reads of page tables outside RAM and ROM find entries that are not present. LA57 is not
// offered.
#include "dbt/system/internal.h"

namespace rhea::dbt {

namespace {

constexpr uint64_t kPtePresent = 1, kPteWrite = 2, kPteUser = 4, kPteAccessed = 0x20, kPteDirty = 0x40,
                   kPteLarge = 0x80, kPteGlobal = 0x100, kPteNoExecute = uint64_t{1} << 63;
constexpr uint64_t kFrameMask = 0x000ffffffffff000;
constexpr uint32_t kErrorPresent = 1, kErrorWrite = 2, kErrorUser = 4, kErrorReserved = 8, kErrorFetch = 16;

enum class WalkStatus : uint8_t { kMapped, kNotPresent, kReserved };

// One page-table entry on the way down.
struct Step {
  std::byte* host = nullptr;
  uint64_t physical = 0;
  uint64_t value = 0;
  bool in_ram = false;
};

struct Walk {
  Step step[4];
  unsigned depth = 0;  // steps taken that have A (and, the last one, D) bits
  unsigned entry_bytes = 8;
  uint64_t page_base = 0;  // physical
  uint64_t page_size = 4096;
  bool user = true, writable = true, no_execute = false, global = false;
};

// Finds the host address of an entry; consecutive tables mostly lie in the same range.
class TableReader {
 public:
  explicit TableReader(const Context& context) : context_(context) {}

  bool read(uint64_t physical, unsigned size_bytes, Step& step) {
    physical &= context_.address_mask;
    if (range_ == nullptr || physical < range_->start || physical - range_->start >= range_->size_bytes)
      range_ = find_range(context_, physical);
    if (range_ == nullptr || range_->kind == io::RangeKind::kMmio || range_->end() - physical < size_bytes) {
      range_ = nullptr;
      return false;
    }
    step.host = range_->host + (physical - range_->start);
    step.physical = physical;
    step.in_ram = range_->kind == io::RangeKind::kRam;
    step.value = size_bytes == 4 ? __atomic_load_n(reinterpret_cast<uint32_t*>(step.host), __ATOMIC_ACQUIRE)
                                 : __atomic_load_n(reinterpret_cast<uint64_t*>(step.host), __ATOMIC_ACQUIRE);
    return true;
  }

 private:
  const Context& context_;
  const io::Range* range_ = nullptr;
};

bool has_1g_pages(const Context& context) { return (static_cpuid(context, 0x80000001).edx >> 26) & 1; }

uint64_t physical_mask(const Context& context) {
  return (uint64_t{1} << context.cpu_model->physical_address_bits()) - 1;
}

// A page-directory pointer as the processor holds it. With none of them known (the state was saved before they were
// kept, or by hand) memory has them. [SDM-3A 4.4.1]
bool read_pdpte(const Context& context, TableReader& tables, unsigned index, uint64_t& value) {
  const std::array<uint64_t, 4>& held = context.state.pdpte;
  value = held[index];
  if (held[0] | held[1] | held[2] | held[3]) return true;
  Step pointer;
  if (!tables.read((context.state.cr3 & 0xffffffe0) + index * 8, 8, pointer)) return false;
  value = pointer.value;
  return true;
}

// Levels 4 to 1 of long mode, or 2 to 1 below a PAE PDPTE. [SDM-3A 4.4, 4.5]
WalkStatus walk_wide(const Context& context, uint64_t linear, Walk& walk) {
  TableReader tables(context);
  const uint64_t address_mask = physical_mask(context) & kFrameMask;
  const bool nxe = context.state.efer & cpu::efer::kNxe;
  uint64_t reserved = kFrameMask & ~address_mask;
  if (!nxe) reserved |= kPteNoExecute;
  unsigned level = 4;
  uint64_t table = context.state.cr3 & address_mask;
  if (!context.state.long_mode_active()) {
    reserved |= 0x7ff0000000000000;
    uint64_t pointer = 0;
    if (!read_pdpte(context, tables, (linear >> 30) & 3, pointer) || !(pointer & kPtePresent))
      return WalkStatus::kNotPresent;
    table = pointer & address_mask;
    level = 2;
  }
  for (;; --level) {
    unsigned shift = 12 + 9 * (level - 1);
    Step& step = walk.step[walk.depth];
    if (!tables.read(table + ((linear >> shift) & 0x1ff) * 8, 8, step) || !(step.value & kPtePresent))
      return WalkStatus::kNotPresent;
    ++walk.depth;
    uint64_t bad = reserved;
    bool leaf = level == 1;
    if (level >= 2 && (step.value & kPteLarge)) {
      if (level == 4 || (level == 3 && !has_1g_pages(context))) {
        bad |= kPteLarge;
      } else {
        leaf = true;
        bad |= (uint64_t{1} << shift) - 0x2000;  // between the PAT bit (12) and the frame
      }
    }
    // AMD reserves G in a PML4E, Intel ignores it. [APM-2 5.3.3]
    if (level == 4 && !context.cpu_model->intel()) bad |= kPteGlobal;
    if (step.value & bad) return WalkStatus::kReserved;
    walk.user &= (step.value & kPteUser) != 0;
    walk.writable &= (step.value & kPteWrite) != 0;
    walk.no_execute |= (step.value & kPteNoExecute) != 0;
    if (leaf) {
      walk.page_size = uint64_t{1} << shift;
      walk.page_base = step.value & address_mask & ~(walk.page_size - 1);
      walk.global = step.value & kPteGlobal;
      return WalkStatus::kMapped;
    }
    table = step.value & address_mask;
  }
}

// Two levels of 32-bit entries, with 4 MiB pages where CR4.PSE is set. [SDM-3A 4.3]
WalkStatus walk_narrow(const Context& context, uint64_t linear, Walk& walk) {
  TableReader tables(context);
  walk.entry_bytes = 4;
  Step& directory = walk.step[0];
  if (!tables.read((context.state.cr3 & 0xfffff000) + ((linear >> 22) & 0x3ff) * 4, 4, directory) ||
      !(directory.value & kPtePresent))
    return WalkStatus::kNotPresent;
  walk.depth = 1;
  walk.user = directory.value & kPteUser;
  walk.writable = directory.value & kPteWrite;
  if ((directory.value & kPteLarge) && (context.state.cr4 & cpu::cr4::kPse)) {
    // PSE-36: bits 20-13 are address bits 39-32, as far as the processor has them.
    unsigned width = context.cpu_model->physical_address_bits();
    unsigned high_bits = width >= 40 ? 8 : width > 32 ? width - 32 : 0;
    uint64_t high_mask = ((uint64_t{1} << high_bits) - 1) << 13;
    if (directory.value & (0x3fe000 & ~high_mask)) return WalkStatus::kReserved;
    walk.page_size = uint64_t{1} << 22;
    walk.page_base = (directory.value & 0xffc00000) | ((directory.value & high_mask) << 19);
    walk.global = directory.value & kPteGlobal;
    return WalkStatus::kMapped;
  }
  Step& entry = walk.step[1];
  if (!tables.read((directory.value & 0xfffff000) + ((linear >> 12) & 0x3ff) * 4, 4, entry) ||
      !(entry.value & kPtePresent))
    return WalkStatus::kNotPresent;
  walk.depth = 2;
  walk.user &= (entry.value & kPteUser) != 0;
  walk.writable &= (entry.value & kPteWrite) != 0;
  walk.page_base = entry.value & 0xfffff000;
  walk.global = entry.value & kPteGlobal;
  return WalkStatus::kMapped;
}

WalkStatus walk_tables(const Context& context, uint64_t linear, Walk& walk) {
  return context.state.cr4 & cpu::cr4::kPae ? walk_wide(context, linear, walk) : walk_narrow(context, linear, walk);
}

std::unexpected<Exception> page_fault(const Context& context, uint64_t linear, Access access, MmuIndex mmu,
                                      uint32_t code) {
  const cpu::CpuState& state = context.state;
  if (access == Access::kWrite) code |= kErrorWrite;
  if (mmu == MmuIndex::kUser) code |= kErrorUser;
  // The I/D bit is reported only where fetches can be refused. [SDM-3A 4.7]
  bool reports_fetch =
      ((state.cr4 & cpu::cr4::kPae) && (state.efer & cpu::efer::kNxe)) || (state.cr4 & cpu::cr4::kSmep);
  if (access == Access::kExecute && reports_fetch) code |= kErrorFetch;
  return std::unexpected(
      Exception{.vector = kPageFault, .has_error_code = true, .error_code = code, .address = linear});
}

bool write_allowed(const Context& context, const Walk& walk, MmuIndex mmu) {
  if (mmu == MmuIndex::kUser) return walk.user && walk.writable;
  return walk.writable || !(context.state.cr0 & cpu::cr0::kWp);
}

// The access rights of a mapping, by the rules for user and supervisor accesses. [SDM-3A 4.6.1]
bool access_allowed(const Context& context, const Walk& walk, Access access, MmuIndex mmu) {
  const cpu::CpuState& state = context.state;
  bool user_access = mmu == MmuIndex::kUser;
  if (user_access && !walk.user) return false;
  if (access == Access::kExecute) {
    if (walk.no_execute && (state.efer & cpu::efer::kNxe)) return false;
    return user_access || !walk.user || !(state.cr4 & cpu::cr4::kSmep);
  }
  if (walk.user && mmu == MmuIndex::kSupervisor && (state.cr4 & cpu::cr4::kSmap)) return false;
  return access == Access::kRead || write_allowed(context, walk, mmu);
}

// Sets A in every entry used, and D in the last one for a write. False if an entry changed meanwhile.
bool set_accessed_dirty(Context& context, Walk& walk, bool dirty) {
  for (unsigned i = 0; i < walk.depth; ++i) {
    Step& step = walk.step[i];
    uint64_t wanted = step.value | kPteAccessed | (dirty && i + 1 == walk.depth ? kPteDirty : 0);
    if (wanted == step.value || !step.in_ram) continue;
    bool stored;
    if (walk.entry_bytes == 4) {
      uint32_t expected = static_cast<uint32_t>(step.value);
      stored = __atomic_compare_exchange_n(reinterpret_cast<uint32_t*>(step.host), &expected,
                                           static_cast<uint32_t>(wanted), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    } else {
      uint64_t expected = step.value;
      stored = __atomic_compare_exchange_n(reinterpret_cast<uint64_t*>(step.host), &expected, wanted, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    if (!stored) return false;
    step.value = wanted;
    note_store(context, step.physical, walk.entry_bytes);
  }
  return true;
}

}  // namespace

Fallible<Translation> translate(Context& context, uint64_t linear, Access access, MmuIndex mmu) {
  if (!(context.state.cr0 & cpu::cr0::kPg))
    return Translation{.physical = linear & context.address_mask, .writable = true};
  for (;;) {
    Walk walk;
    WalkStatus status = walk_tables(context, linear, walk);
    if (status == WalkStatus::kNotPresent) return page_fault(context, linear, access, mmu, 0);
    if (status == WalkStatus::kReserved)
      return page_fault(context, linear, access, mmu, kErrorPresent | kErrorReserved);
    if (!access_allowed(context, walk, access, mmu)) return page_fault(context, linear, access, mmu, kErrorPresent);
    if (!set_accessed_dirty(context, walk, access == Access::kWrite)) continue;
    const Step& leaf = walk.step[walk.depth - 1];
    bool dirty = leaf.value & kPteDirty;
    return Translation{.physical = (walk.page_base | (linear & (walk.page_size - 1))) & context.address_mask,
                       .page_size = walk.page_size,
                       .writable = (access == Access::kWrite || dirty) && write_allowed(context, walk, mmu),
                       .global = walk.global && (context.state.cr4 & cpu::cr4::kPge)};
  }
}

bool translate_for_debug(const Context& context, uint64_t linear, uint64_t& physical) {
  if (!(context.state.cr0 & cpu::cr0::kPg)) {
    physical = linear & context.address_mask;
    return true;
  }
  Walk walk;
  if (walk_tables(context, linear, walk) != WalkStatus::kMapped) return false;
  physical = (walk.page_base | (linear & (walk.page_size - 1))) & context.address_mask;
  return true;
}

}  // namespace rhea::dbt
