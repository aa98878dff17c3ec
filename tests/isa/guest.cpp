// SPDX-License-Identifier: Apache-2.0
// Lays out the guest's physical memory: system page, paging structures, then the arena's backing pages in an
// order that is not the linear one, so that an access across pages cannot work by accident.
#include "tests/isa/guest.h"

#include <sched.h>

#include <array>
#include <cstring>

namespace rhea::tests::isa {
namespace {

using memory::GuestPhysAddr;

// Physical layout.
constexpr uint64_t kRamBytes = 2 << 20;
constexpr uint64_t kSystemPhysical = 0x4000;  // GDT, IDT, TSS in one page; the handlers in the next
constexpr uint64_t kHandlersPhysical = 0x5000;
constexpr uint64_t kKernelStackPhysical = 0x6000;
constexpr uint64_t kTablesPhysical = 0x10000;
constexpr size_t kTableFrames = 24;
constexpr uint64_t kBackingPhysical = 0x80000;

// Linear layout of the supervisor's pages.
constexpr uint64_t kSystemLinear = 0xffff'8000'0000'0000;
constexpr uint64_t kHandlersLinear = kSystemLinear + 0x1000;
constexpr uint64_t kKernelStackLinear = kSystemLinear + 0x2000;
constexpr uint64_t kHandlerSpacing = 16;
constexpr unsigned kVectors = 32;

// Offsets in the system page.
constexpr uint64_t kGdtOffset = 0, kIdtOffset = 0x200, kTssOffset = 0x800;
constexpr size_t kGdtEntries = 16;
constexpr uint16_t kTssLimit = 0x67;

// Selectors as Linux has them, because user code can read them.
constexpr uint16_t kKernelCs = 0x10, kUserCs32 = 0x23, kUserDs = 0x2b, kUserCs64 = 0x33, kTssSelector = 0x40;
constexpr uint16_t kAttributesCode64 = 0xa0fb, kAttributesCode32 = 0xc0fb, kAttributesData = 0xc0f3;

constexpr uint64_t kPresent = 1, kWritable = 2, kUser = 4, kAccessed = 0x20, kNoExecute = uint64_t{1} << 63;
constexpr uint64_t kFrameMask = 0x000f'ffff'ffff'f000;
constexpr uint64_t kCr2Sentinel = 0x5151'5000;

uint64_t backing_frame(BackingPage page) {
  // Odd steps around a ring: neighbours in the image are never neighbours in physical memory.
  return kBackingPhysical + (static_cast<uint64_t>(page) * 7 % 16) * 2 * kPage;
}

// The processor that the native side runs on (on node 0 of the machine).
uint64_t first_processor() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  uint64_t cpu = 0;
  while (cpu < CPU_SETSIZE - 1 && !CPU_ISSET(cpu, &allowed)) ++cpu;
  return cpu;
}

uint64_t descriptor(uint16_t attributes) {
  // Base 0, limit 0xfffff. [SDM-3A 3.4.5]
  return 0xffff | uint64_t{attributes & 0xffu} << 40 | uint64_t{0xf} << 48 | uint64_t{(attributes >> 12) & 0xfu} << 52;
}

// Writes paging structures into an array of frames that is copied to guest memory as a whole.
class TableBuilder {
 public:
  TableBuilder() : words_(kTableFrames * 512) {}
  void map(uint64_t linear, uint64_t physical, uint64_t flags) {
    size_t frame = 0;
    for (int shift = 39; shift > 12; shift -= 9) {
      uint64_t& entry = words_[frame * 512 + (linear >> shift & 511)];
      if (!entry) entry = (kTablesPhysical + next_++ * kPage) | kPresent | kWritable | kUser | kAccessed;
      frame = ((entry & kFrameMask) - kTablesPhysical) / kPage;
    }
    words_[frame * 512 + (linear >> 12 & 511)] = physical | flags;
  }
  std::vector<uint64_t> take() {
    words_.resize(next_ * 512);
    return std::move(words_);
  }

 private:
  std::vector<uint64_t> words_;
  size_t next_ = 1;
};

uint64_t flags_of(Protection protection) {
  switch (protection) {
    case Protection::kReadWrite: return kPresent | kUser | kWritable | kNoExecute;
    case Protection::kReadOnly: return kPresent | kUser | kNoExecute;
    case Protection::kReadExecute: return kPresent | kUser;
    case Protection::kReadWriteExecute: return kPresent | kUser | kWritable;
  }
  return 0;
}

}  // namespace

Result<Guest> Guest::create() {
  Guest guest;
  const memory::GuestMemory::Extent extent{.start = {0}, .size_bytes = kRamBytes};
  guest.memory_ = RHEA_TRY(memory::GuestMemory::create({&extent, 1}, {.name = "isa-conformance"}));
  guest.build_tables();
  return guest;
}

std::vector<uint64_t> Guest::handler_addresses() {
  std::vector<uint64_t> addresses;
  for (unsigned vector = 0; vector < kVectors; ++vector)
    addresses.push_back(kHandlersLinear + vector * kHandlerSpacing);
  return addresses;
}

void Guest::write(uint64_t physical, const void* data, size_t size) {
  memory_->write(GuestPhysAddr{physical}, {static_cast<const std::byte*>(data), size});
}

void Guest::build_tables() {
  TableBuilder builder;
  for (const ArenaMapping& mapping : kArena)
    builder.map(mapping.linear, backing_frame(mapping.page), flags_of(mapping.protection));
  builder.map(kSystemLinear, kSystemPhysical, kPresent | kWritable | kNoExecute);
  builder.map(kHandlersLinear, kHandlersPhysical, kPresent);
  builder.map(kKernelStackLinear, kKernelStackPhysical, kPresent | kWritable | kNoExecute);
  page_tables_ = builder.take();

  std::array<uint64_t, kGdtEntries> gdt{};
  gdt[1] = descriptor(0xc09b);
  // Linux keeps the processor's number in the limit of its last entry, for vgetcpu().
  gdt[kGdtEntries - 1] = first_processor() | uint64_t{0x40f5} << 40;
  gdt[kKernelCs / 8] = descriptor(0xa09b);
  gdt[kKernelCs / 8 + 1] = descriptor(0xc093);
  gdt[kUserCs32 / 8] = descriptor(kAttributesCode32);
  gdt[kUserDs / 8] = descriptor(kAttributesData);
  gdt[kUserCs64 / 8] = descriptor(kAttributesCode64);
  const uint64_t tss_base = kSystemLinear + kTssOffset;
  gdt[kTssSelector / 8] =
      kTssLimit | (tss_base & 0xffffff) << 16 | uint64_t{0x8b} << 40 | (tss_base >> 24 & 0xff) << 56;
  gdt[kTssSelector / 8 + 1] = tss_base >> 32;
  write(kSystemPhysical + kGdtOffset, gdt.data(), sizeof gdt);

  std::array<uint64_t, 2 * kVectors> idt{};
  for (unsigned vector = 0; vector < kVectors; ++vector) {
    const uint64_t handler = kHandlersLinear + vector * kHandlerSpacing;
    const uint64_t privilege = vector == 3 || vector == 4 ? 3 : 0;  // INT3 and INTO are for users
    idt[2 * vector] = (handler & 0xffff) | uint64_t{kKernelCs} << 16 | (0x8e00 | privilege << 13) << 32 |
                      (handler >> 16 & 0xffff) << 48;
    idt[2 * vector + 1] = handler >> 32;
  }
  write(kSystemPhysical + kIdtOffset, idt.data(), sizeof idt);

  std::array<uint32_t, 26> tss{};
  const uint64_t stack = kKernelStackLinear + kPage;
  std::memcpy(&tss[1], &stack, 8);
  tss[25] = uint32_t{kTssLimit + 1} << 16;  // no I/O bitmap
  write(kSystemPhysical + kTssOffset, tss.data(), sizeof tss);

  const std::vector<uint8_t> handlers(kPage, 0xf4);
  write(kHandlersPhysical, handlers.data(), handlers.size());
}

void Guest::load(const Image& image) {
  // Few tables have had a bit set by the case before.
  for (size_t at = 0; at < page_tables_.size(); at += 512) {
    const uint64_t frame = kTablesPhysical + at * sizeof(uint64_t);
    if (std::memcmp(memory_->host_pointer(GuestPhysAddr{frame}, kPage), page_tables_.data() + at, kPage) != 0)
      write(frame, page_tables_.data() + at, kPage);
  }
  for (size_t page = 0; page < kBackingPages; ++page) {
    const uint64_t frame = backing_frame(static_cast<BackingPage>(page));
    const std::byte* host = memory_->host_pointer(GuestPhysAddr{frame}, kPage);
    if (std::memcmp(host, image.data() + page * kPage, kPage) != 0) write(frame, image.data() + page * kPage, kPage);
  }
}

void Guest::save(Image& image) const {
  for (size_t page = 0; page < kBackingPages; ++page)
    std::memcpy(image.data() + page * kPage,
                memory_->host_pointer(GuestPhysAddr{backing_frame(static_cast<BackingPage>(page))}, kPage), kPage);
}

cpu::CpuState Guest::state_for(const Input& input) const {
  namespace cr0 = cpu::cr0;
  namespace cr4 = cpu::cr4;
  namespace efer = cpu::efer;
  cpu::CpuState state;
  state.gpr = input.state.gpr;
  state.rip = input.state.rip;
  state.rflags = input.state.rflags | cpu::rflags::kFixed1 | cpu::rflags::kIf;
  state.cr0 = cr0::kPe | cr0::kMp | cr0::kEt | cr0::kNe | cr0::kWp | cr0::kAm | cr0::kPg;
  state.cr2 = kCr2Sentinel;
  state.cr3 = kTablesPhysical;
  state.cr4 = cr4::kPae | cr4::kPge | cr4::kOsfxsr | cr4::kOsxmmexcpt | cr4::kFsgsbase | cr4::kOsxsave;
  state.efer = efer::kSce | efer::kLme | efer::kLma | efer::kNxe;
  state.xcr0 = vector_layout().components;
  const cpu::Segment data{.base = 0, .limit = 0xffffffff, .selector = kUserDs, .attributes = kAttributesData};
  state.segment[cpu::kEs] = state.segment[cpu::kSs] = state.segment[cpu::kDs] = data;
  state.segment[cpu::kCs] = {.base = 0,
                             .limit = 0xffffffff,
                             .selector = input.mode32 ? kUserCs32 : kUserCs64,
                             .attributes = input.mode32 ? kAttributesCode32 : kAttributesCode64};
  state.segment[cpu::kFs] = {.base = input.state.fs_base, .limit = 0, .selector = 0, .attributes = 0};
  state.segment[cpu::kGs] = {.base = input.state.gs_base, .limit = 0, .selector = 0, .attributes = 0};
  state.segment[cpu::kTr] = {
      .base = kSystemLinear + kTssOffset, .limit = kTssLimit, .selector = kTssSelector, .attributes = 0x8b};
  state.gdtr = {.base = kSystemLinear + kGdtOffset, .limit = kGdtEntries * 8 - 1};
  state.idtr = {.base = kSystemLinear + kIdtOffset, .limit = kVectors * 16 - 1};
  std::memcpy(state.xsave.data(), input.state.xsave.data(), kXsaveBytes);
  return state;
}

void Guest::read_outcome(const cpu::CpuState& state, Output& output) const {
  const uint64_t vector = (state.rip - kHandlersLinear) / kHandlerSpacing;
  // [SDM-3A 6.14.2]: SS RSP RFLAGS CS RIP and perhaps an error code, from the top of the stack.
  std::array<uint64_t, 6> frame{};
  const uint64_t used = kKernelStackLinear + kPage - state.gpr[cpu::kRsp];
  const bool has_error_code = used == 48;
  const std::byte* top = memory_->host_pointer(GuestPhysAddr{kKernelStackPhysical}, kPage) + kPage;
  if (used == 40 || used == 48) std::memcpy(frame.data() + (has_error_code ? 0 : 1), top - used, used);
  output.outcome = {.kind = OutcomeKind::kException,
                    .vector = static_cast<uint8_t>(vector),
                    .error_code = static_cast<uint32_t>(frame[0]),
                    .fault_address = 0};
  if (vector == 14)
    output.outcome.fault_address = state.cr2;
  else if (state.cr2 != kCr2Sentinel)
    output.outcome.fault_address = state.cr2;
  // A wrong frame shows as an impossible error code.
  const bool wants_error_code = vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
  if ((used != 40 && used != 48) || wants_error_code != has_error_code) output.outcome.error_code |= 0x4000'0000;
  output.state.selector = {state.segment[cpu::kEs].selector, static_cast<uint16_t>(frame[2]),
                           static_cast<uint16_t>(frame[5]),  state.segment[cpu::kDs].selector,
                           state.segment[cpu::kFs].selector, state.segment[cpu::kGs].selector};
  output.state.gpr = state.gpr;
  output.state.rip = frame[1];
  output.state.rflags = frame[3];
  output.state.gpr[cpu::kRsp] = frame[4];
  output.state.fs_base = state.segment[cpu::kFs].base;
  output.state.gs_base = state.segment[cpu::kGs].base;
  std::memcpy(output.state.xsave.data(), state.xsave.data(), kXsaveBytes);
  save(output.image);
}

}  // namespace rhea::tests::isa
