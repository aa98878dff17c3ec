// SPDX-License-Identifier: Apache-2.0
// ELF parsing for the kernel loaders. [ELF-64 1.5], [ELF-1.2]
#include "machine/boot/elf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "machine/boot/byte_view.h"

namespace rhea::machine {
namespace {

constexpr uint16_t kMachineI386 = 3, kMachineX86_64 = 62;
constexpr uint16_t kTypeExec = 2, kTypeDyn = 3;
constexpr uint32_t kPtLoad = 1, kPtNote = 4;
constexpr uint32_t kFlagExecute = 1;
constexpr uint32_t kXenNotePhys32Entry = 18;  // [Xen public/elfnote.h]
constexpr unsigned kMaxProgramHeaders = 256;
constexpr uint64_t kMaxNotes = 4096;

struct ProgramHeader {
  uint32_t type, flags;
  uint64_t offset, virtual_address, physical_address, file_bytes, memory_bytes, alignment;
};

ProgramHeader read_program_header(const ByteView& view, uint64_t at, bool is_64bit) {
  if (is_64bit) {
    return {view.u32(at),      view.u32(at + 4),  view.u64(at + 8),  view.u64(at + 16),
            view.u64(at + 24), view.u64(at + 32), view.u64(at + 40), view.u64(at + 48)};
  }
  return {view.u32(at),      view.u32(at + 24), view.u32(at + 4),  view.u32(at + 8),
          view.u32(at + 12), view.u32(at + 16), view.u32(at + 20), view.u32(at + 28)};
}

uint64_t align_up(uint64_t value, uint64_t alignment) { return (value + alignment - 1) & ~(alignment - 1); }

// The PVH entry out of a note segment, if it is there. Broken notes end the search.
std::optional<uint32_t> find_pvh_note(std::span<const std::byte> notes, uint64_t alignment) {
  ByteView view(notes);
  uint64_t step = alignment == 8 ? 8 : 4;
  uint64_t at = 0;
  for (uint64_t count = 0; count < kMaxNotes && view.contains(at, 12); ++count) {
    uint32_t name_bytes = view.u32(at), descriptor_bytes = view.u32(at + 4), type = view.u32(at + 8);
    uint64_t descriptor_at = at + align_up(12 + uint64_t{name_bytes}, step);
    auto name = view.slice(at + 12, name_bytes);
    auto descriptor = view.slice(descriptor_at, descriptor_bytes);
    if (!name || !descriptor) return std::nullopt;
    if (type == kXenNotePhys32Entry && name_bytes == 4 && std::memcmp(name->data(), "Xen", 4) == 0 &&
        descriptor_bytes >= 4)
      return view.u32(descriptor_at);
    at = descriptor_at + align_up(descriptor_bytes, step);
  }
  return std::nullopt;
}

Status add_segment(ElfImage& image, const ByteView& view, const ProgramHeader& header, unsigned index) {
  if (header.memory_bytes == 0) return {};
  auto data = view.slice(header.offset, header.file_bytes);
  if (!data)
    return fail(ErrorCode::kCorrupt,
                fmt::format("damaged ELF file: segment {} reaches beyond the end of the file", index));
  if (header.file_bytes > header.memory_bytes)
    return fail(ErrorCode::kCorrupt, fmt::format("damaged ELF file: segment {} has more data than memory", index));
  uint64_t end = 0;
  if (__builtin_add_overflow(header.physical_address, header.memory_bytes, &end) ||
      __builtin_add_overflow(header.virtual_address, header.memory_bytes - 1, &end))
    return fail(ErrorCode::kCorrupt, fmt::format("damaged ELF file: segment {} wraps around the end of memory", index));
  image.segments.push_back({.virtual_address = header.virtual_address,
                            .physical_address = header.physical_address,
                            .memory_bytes = header.memory_bytes,
                            .data = *data,
                            .executable = (header.flags & kFlagExecute) != 0});
  return {};
}

}  // namespace

bool looks_like_elf(std::span<const std::byte> file) {
  return file.size() >= 4 && std::memcmp(file.data(),
                                         "\x7f"
                                         "ELF",
                                         4) == 0;
}

Result<ElfImage> parse_elf(std::span<const std::byte> file) {
  ByteView view(file);
  if (!looks_like_elf(file) || !view.contains(0, 52))
    return fail(ErrorCode::kCorrupt, "not a kernel: a damaged ELF file");
  ElfImage image;
  image.is_64bit = view.u8(4) == 2;
  if (image.is_64bit && !view.contains(0, 64)) return fail(ErrorCode::kCorrupt, "not a kernel: a damaged ELF file");
  uint16_t type = view.u16(16), machine = view.u16(18);
  if (view.u8(4) < 1 || view.u8(4) > 2 || view.u8(5) != 1)
    return fail(ErrorCode::kUnsupported,
                "not a kernel for this machine: an ELF file that is not little-endian 32- or 64-bit");
  if (machine != kMachineX86_64 && machine != kMachineI386)
    return fail(ErrorCode::kUnsupported,
                fmt::format("not a kernel for this machine: an ELF file for processor type {}, not x86", machine));
  if (type != kTypeExec && type != kTypeDyn)
    return fail(ErrorCode::kUnsupported, "not a kernel: an ELF file that is not an executable");

  image.entry = image.is_64bit ? view.u64(24) : view.u32(24);
  uint64_t table = image.is_64bit ? view.u64(32) : view.u32(28);
  unsigned entry_bytes = view.u16(image.is_64bit ? 54 : 42), count = view.u16(image.is_64bit ? 56 : 44);
  unsigned minimum = image.is_64bit ? 56 : 32;
  if (count == 0 || count > kMaxProgramHeaders || entry_bytes < minimum ||
      !view.contains(table, uint64_t{entry_bytes} * count))
    return fail(ErrorCode::kCorrupt, "not a kernel: an ELF file without usable program headers");

  for (unsigned i = 0; i < count; ++i) {
    ProgramHeader header = read_program_header(view, table + uint64_t{i} * entry_bytes, image.is_64bit);
    if (header.type == kPtLoad) {
      RHEA_TRY(add_segment(image, view, header, i));
    } else if (header.type == kPtNote && !image.pvh_entry) {
      if (auto notes = view.slice(header.offset, header.file_bytes))
        image.pvh_entry = find_pvh_note(*notes, header.alignment);
    }
  }
  if (image.segments.empty()) return fail(ErrorCode::kCorrupt, "not a kernel: an ELF file with nothing to load");
  return image;
}

Status write_zero_extended(memory::GuestMemory& memory, uint64_t address, std::span<const std::byte> data,
                           uint64_t memory_bytes) {
  static constexpr std::array<std::byte, 65536> kZeros{};
  bool written = data.empty() || memory.write({address}, data);
  uint64_t at = address + data.size(), end = address + memory_bytes;
  while (written && at < end) {
    uint64_t length = std::min<uint64_t>(end - at, kZeros.size());
    written = memory.write({at}, std::span(kZeros).first(length));
    at += length;
  }
  if (!written) return fail(ErrorCode::kExhausted, fmt::format("no guest memory at {:#x}-{:#x}", address, end - 1));
  return {};
}

Status load_elf_segments(const ElfImage& image, memory::GuestMemory& memory, Placement& placement) {
  for (const ElfSegment& segment : image.segments) {
    RHEA_TRY(placement.claim(segment.physical_address, segment.memory_bytes, "the kernel"));
    RHEA_TRY(write_zero_extended(memory, segment.physical_address, segment.data, segment.memory_bytes));
  }
  return {};
}

}  // namespace rhea::machine
