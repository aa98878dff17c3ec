// SPDX-License-Identifier: Apache-2.0
// The loaders against images made here: what lands in memory, in which registers, and what is refused with which words.
#include <bzlib.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <cstring>
#include <string>

#include "machine/boot/boot_cpu.h"
#include "machine/boot/byte_view.h"
#include "machine/boot/bzimage.h"
#include "machine/boot/decompress.h"
#include "machine/boot/elf.h"
#include "machine/boot/loader.h"
#include "machine/boot/multiboot.h"
#include "machine/byte_image.h"
#include "machine/pc/layout.h"

namespace rhea::machine {
namespace {

using testing::HasSubstr;

constexpr uint64_t kMemoryBytes = uint64_t{64} << 20;
constexpr uint64_t kKernelAddress = 0x1000000;

std::vector<std::byte> bytes_of(std::string_view text) {
  auto span = std::as_bytes(std::span(text));
  return {span.begin(), span.end()};
}

struct SegmentPlan {
  uint64_t address;
  std::vector<std::byte> data;
  uint64_t memory_bytes;
};

// A 64-bit executable with the segments given, and a PVH note if asked for.
std::vector<std::byte> make_elf64(const std::vector<SegmentPlan>& segments, uint64_t entry,
                                  std::optional<uint32_t> pvh = {}) {
  ByteImage image;
  image
      .text(
          "\x7f"
          "ELF")
      .u8(2)
      .u8(1)
      .u8(1)
      .zeros(9);
  const auto count = static_cast<uint16_t>(segments.size() + (pvh ? 1 : 0));
  image.u16(2).u16(62).u32(1).u64(entry).u64(64).u64(0).u32(0).u16(64).u16(56).u16(count).u16(0).u16(0).u16(0);
  size_t data_at = 64 + 56u * count;
  for (const SegmentPlan& segment : segments) {
    image.u32(1).u32(5).u64(data_at).u64(0xffffffff80000000 + segment.address).u64(segment.address);
    image.u64(segment.data.size()).u64(segment.memory_bytes).u64(4096);
    data_at += segment.data.size();
  }
  ByteImage note;
  if (pvh) {
    note.u32(4).u32(4).u32(1).text("GNU").u8(0).u32(7);  // another note before it
    note.u32(4).u32(4).u32(18).text("Xen").u8(0).u32(*pvh);
    image.u32(4).u32(4).u64(data_at).u64(0).u64(0).u64(note.size()).u64(note.size()).u64(4);
  }
  for (const SegmentPlan& segment : segments) image.bytes(segment.data);
  image.bytes(note.span());
  return image.vector();
}

std::vector<std::byte> make_elf32(uint32_t address, std::span<const std::byte> data, uint32_t entry) {
  ByteImage image;
  image
      .text(
          "\x7f"
          "ELF")
      .u8(1)
      .u8(1)
      .u8(1)
      .zeros(9);
  image.u16(2).u16(3).u32(1).u32(entry).u32(52).u32(0).u32(0).u16(52).u16(32).u16(1).u16(0).u16(0).u16(0);
  image.u32(1)
      .u32(84)
      .u32(address)
      .u32(address)
      .u32(static_cast<uint32_t>(data.size()))
      .u32(static_cast<uint32_t>(data.size()))
      .u32(7)
      .u32(4096);
  image.bytes(data);
  return image.vector();
}

struct BzPlan {
  std::vector<std::byte> payload;
  uint16_t protocol = 0x020f;
  uint16_t xloadflags = 1;
  uint32_t init_size = 0x400000;
  uint32_t initrd_max = 0x7fffffff;
  uint32_t command_line_size = 2047;
  uint8_t relocatable = 1;
};
std::vector<std::byte> make_bzimage(const BzPlan& plan) {
  constexpr size_t kSetupBytes = 5 * 512, kPayloadOffset = 0x400;
  ByteImage image(kSetupBytes);
  image.put8(0x1f1, 4);
  image.put16(0x1fe, 0xaa55);
  image.put16(0x200, 0x6aeb);
  image.put32(0x202, 0x53726448);
  image.put16(0x206, plan.protocol);
  image.put16(0x20e, 0x100);
  image.put8(0x211, 0x03);  // loaded high, and a KASLR flag that must not survive
  image.put32(0x214, 0x100000);
  image.put32(0x22c, plan.initrd_max);
  image.put32(0x230, 0x200000);
  image.put8(0x234, plan.relocatable);
  image.put16(0x236, plan.xloadflags);
  image.put32(0x238, plan.command_line_size);
  image.put32(0x248, kPayloadOffset);
  image.put32(0x24c, static_cast<uint32_t>(plan.payload.size()));
  image.put64(0x258, kKernelAddress);
  image.put32(0x260, plan.init_size);
  image.put_bytes(0x300, bytes_of("6.1.0-test (someone@somewhere)"));
  image.zeros(kPayloadOffset).bytes(plan.payload);
  return image.vector();
}

std::vector<std::byte> gzip(std::span<const std::byte> data) {
  std::vector<std::byte> out(data.size() + 1024);
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(out.size() - stream.avail_out);
  deflateEnd(&stream);
  return out;
}

std::vector<std::byte> pack(Compression compression, std::span<const std::byte> data) {
  std::vector<std::byte> out(data.size() + (1u << 16));
  const auto* in = reinterpret_cast<const uint8_t*>(data.data());
  auto* to = reinterpret_cast<uint8_t*>(out.data());
  size_t used = 0;
  switch (compression) {
    case Compression::kGzip: return gzip(data);
    case Compression::kXz:
      lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, nullptr, in, data.size(), to, &used, out.size());
      break;
    case Compression::kLzma: {
      lzma_options_lzma options;
      lzma_lzma_preset(&options, 6);
      lzma_stream stream = LZMA_STREAM_INIT;
      EXPECT_EQ(lzma_alone_encoder(&stream, &options), LZMA_OK);
      stream.next_in = in;
      stream.avail_in = data.size();
      stream.next_out = to;
      stream.avail_out = out.size();
      EXPECT_EQ(lzma_code(&stream, LZMA_FINISH), LZMA_STREAM_END);
      used = stream.total_out;
      lzma_end(&stream);
      break;
    }
    case Compression::kZstd: used = ZSTD_compress(out.data(), out.size(), data.data(), data.size(), 3); break;
    case Compression::kBzip2: {
      auto length = static_cast<unsigned>(out.size());
      BZ2_bzBuffToBuffCompress(reinterpret_cast<char*>(to), &length, reinterpret_cast<char*>(const_cast<uint8_t*>(in)),
                               static_cast<unsigned>(data.size()), 9, 0, 0);
      used = length;
      break;
    }
    case Compression::kLz4: {
      ByteImage frame;
      frame.u32(0x184c2102);
      for (size_t at = 0; at < data.size(); at += 8u << 20) {
        auto block = data.subspan(at, std::min<size_t>(8u << 20, data.size() - at));
        std::vector<char> packed(static_cast<size_t>(LZ4_compressBound(static_cast<int>(block.size()))));
        int length = LZ4_compress_default(reinterpret_cast<const char*>(block.data()), packed.data(),
                                          static_cast<int>(block.size()), static_cast<int>(packed.size()));
        frame.u32(static_cast<uint32_t>(length))
            .bytes(std::as_bytes(std::span(packed).first(static_cast<size_t>(length))));
      }
      return frame.vector();
    }
    default: break;
  }
  out.resize(used);
  return out;
}

constexpr Compression kAll[] = {Compression::kGzip, Compression::kXz,    Compression::kZstd,
                                Compression::kLz4,  Compression::kBzip2, Compression::kLzma};

std::vector<std::byte> sample(size_t size) {
  std::vector<std::byte> data(size);
  uint32_t seed = 1;
  for (size_t i = 0; i < size; ++i) {
    seed = seed * 1664525 + 1013904223;
    data[i] = static_cast<std::byte>(i % 64 < 48 ? i >> 6 : seed >> 24);
  }
  return data;
}

class BootTest : public testing::Test {
 protected:
  BootTest() { reset_memory(kMemoryBytes); }
  void reset_memory(uint64_t bytes) {
    layout_ = *MemoryLayout::create(bytes, 40);
    map_ = layout_->memory_map();
    auto extents = layout_->extents();
    memory_ = std::move(*memory::GuestMemory::create(extents, {}));
  }
  Result<BootResult> load(std::span<const std::byte> kernel) {
    return load_kernel({.kernel = kernel,
                        .modules = modules_,
                        .command_line = command_line_,
                        .map = map_,
                        .memory = *memory_,
                        .rsdp_address = 0xe0000});
  }
  std::string error_of(std::span<const std::byte> kernel) {
    auto result = load(kernel);
    return result ? "loaded: " + result->description : result.error().to_string();
  }
  template <class T>
  T at(uint64_t address) {
    T value{};
    EXPECT_TRUE(memory_->read({address}, std::as_writable_bytes(std::span(&value, 1)))) << std::hex << address;
    return value;
  }
  std::string text_at(uint64_t address) {
    std::string text;
    for (char c; (c = at<char>(address + text.size())) != 0 && text.size() < 10000;) text.push_back(c);
    return text;
  }
  std::vector<std::byte> bytes_at(uint64_t address, size_t size) {
    std::vector<std::byte> data(size);
    EXPECT_TRUE(memory_->read({address}, data));
    return data;
  }
  std::vector<std::byte> vmlinux() {
    return make_elf64({{kKernelAddress, sample(200000), 300000}, {kKernelAddress + 0x100000, sample(1000), 0x20000}},
                      kKernelAddress + 0x40);
  }

  std::optional<MemoryLayout> layout_;
  MemoryMap map_;
  std::unique_ptr<memory::GuestMemory> memory_;
  std::vector<BootModule> modules_;
  std::string command_line_ = "console=ttyS0 quiet";
};

TEST(Decompress, UnpacksWhatEveryPackerMakes) {
  for (Compression compression : kAll) {
    // More than one block of legacy LZ4.
    const auto data = sample(compression == Compression::kLz4 ? 9'000'000 : 2'000'000);
    auto packed = pack(compression, data);
    ASSERT_EQ(detect_compression(packed), compression) << compression_name(compression);
    for (std::byte trailer : {std::byte{0x40}, std::byte{0x54}, std::byte{0x89}, std::byte{0}})
      packed.push_back(trailer);  // appended size
    auto unpacked = decompress(packed, data.size());
    ASSERT_TRUE(unpacked) << compression_name(compression) << ": " << unpacked.error().to_string();
    EXPECT_EQ(*unpacked, data) << compression_name(compression);
  }
}

TEST(Decompress, StopsAtItsLimit) {
  const std::vector<std::byte> zeros(8u << 20);
  for (Compression compression : kAll) {
    auto packed = pack(compression, zeros);
    auto refused = decompress(packed, zeros.size() - 1);
    ASSERT_FALSE(refused) << compression_name(compression);
    EXPECT_EQ(refused.error().code(), ErrorCode::kExhausted) << compression_name(compression);
    EXPECT_TRUE(decompress(packed, zeros.size())) << compression_name(compression);
  }
}

TEST(Decompress, ReportsDamageAndTruncation) {
  const auto data = sample(300'000);
  for (Compression compression : kAll) {
    auto packed = pack(compression, data);
    for (size_t keep : {size_t{4}, packed.size() / 2, packed.size() - 8}) {
      auto cut = decompress(std::span(packed).first(keep), 1u << 30);
      if (compression == Compression::kLz4 && keep == 4) continue;  // an empty frame is a frame
      EXPECT_FALSE(cut) << compression_name(compression) << " " << keep;
    }
    auto damaged = packed;
    for (size_t i = damaged.size() / 3; i < damaged.size() / 3 + 64; ++i) damaged[i] ^= std::byte{0xff};
    auto result = decompress(damaged, 1u << 30);
    if (result) EXPECT_NE(*result, data) << compression_name(compression);
  }
  EXPECT_FALSE(decompress({}, 100));
}

TEST_F(BootTest, BzImageOfEveryCompressionIsEnteredAtStartup64) {
  for (Compression compression : kAll) {
    reset_memory(kMemoryBytes);
    BzPlan plan{.payload = pack(compression, vmlinux())};
    modules_ = {{.data = sample(5001), .command_line = {}}};
    auto result = load(make_bzimage(plan));
    ASSERT_TRUE(result) << compression_name(compression) << result.error().to_string();
    EXPECT_THAT(result->description, HasSubstr("6.1.0-test"));
    EXPECT_THAT(result->description, HasSubstr(compression_name(compression)));
    EXPECT_EQ(bytes_at(kKernelAddress, 200000), sample(200000));
    EXPECT_EQ(bytes_at(kKernelAddress + 0x100000, 1000), sample(1000));

    const cpu::CpuState& state = result->state;
    EXPECT_EQ(state.rip, kKernelAddress + 0x40);
    EXPECT_TRUE(state.code64());
    EXPECT_EQ(state.segment[cpu::kCs].selector, 0x10);
    for (auto segment : {cpu::kDs, cpu::kEs, cpu::kSs}) EXPECT_EQ(state.segment[segment].selector, 0x18);
    EXPECT_EQ(state.rflags & cpu::rflags::kIf, 0u);
    EXPECT_TRUE(state.cr0 & cpu::cr0::kPg);
    EXPECT_TRUE(state.cr4 & cpu::cr4::kPae);

    const uint64_t zero_page = state.gpr[cpu::kRsi];
    EXPECT_EQ(at<uint32_t>(zero_page + 0x202), 0x53726448u);
    EXPECT_EQ(at<uint8_t>(zero_page + 0x210), 0xff);
    EXPECT_EQ(at<uint8_t>(zero_page + 0x211) & 0x83, 0x01);
    EXPECT_EQ(text_at(at<uint32_t>(zero_page + 0x228)), command_line_);
    EXPECT_EQ(at<uint64_t>(zero_page + 0x70), 0xe0000u);
    EXPECT_EQ(at<uint8_t>(zero_page + 0x1ef), 0);  // sentinel
    uint32_t initrd = at<uint32_t>(zero_page + 0x218);
    EXPECT_EQ(at<uint32_t>(zero_page + 0x21c), 5001u);
    EXPECT_EQ(initrd % 4096, 0u);
    EXPECT_EQ(initrd, kMemoryBytes - 0x2000);
    EXPECT_EQ(bytes_at(initrd, 5001), sample(5001));
    ASSERT_EQ(at<uint8_t>(zero_page + 0x1e8), map_.size());
    for (size_t i = 0; i < map_.size(); ++i) {
      EXPECT_EQ(at<uint64_t>(zero_page + 0x2d0 + 20 * i), map_[i].start);
      EXPECT_EQ(at<uint64_t>(zero_page + 0x2d8 + 20 * i), map_[i].size_bytes);
      EXPECT_EQ(at<uint32_t>(zero_page + 0x2e0 + 20 * i), static_cast<uint32_t>(map_[i].type));
    }
  }
}

// The page tables and descriptors that the processor will really read.
TEST_F(BootTest, PageTablesMapIdentityAndDescriptorsMatchTheSegments) {
  auto result = load(make_bzimage({.payload = gzip(vmlinux())}));
  ASSERT_TRUE(result);
  const cpu::CpuState& state = result->state;
  for (uint64_t address : {uint64_t{0}, state.rip, state.gpr[cpu::kRsi], uint64_t{0xfee00000}, uint64_t{0xffffffff}}) {
    uint64_t level4 = at<uint64_t>(state.cr3 + 8 * (address >> 39));
    uint64_t level3 = at<uint64_t>((level4 & ~0xfffull) + 8 * ((address >> 30) & 511));
    uint64_t level2 = at<uint64_t>((level3 & ~0xfffull) + 8 * ((address >> 21) & 511));
    EXPECT_EQ(level4 & 3, 3u);
    EXPECT_EQ(level3 & 3, 3u);
    EXPECT_EQ(level2 & 0x83, 0x83u);
    EXPECT_EQ((level2 & ~0x1fffffull) | (address & 0x1fffff), address);
  }
  for (auto index : {cpu::kCs, cpu::kDs, cpu::kTr}) {
    const cpu::Segment& segment = state.segment[index];
    uint64_t descriptor = at<uint64_t>(state.gdtr.base + segment.selector);
    EXPECT_EQ((descriptor >> 40) & 0xf0ff, segment.attributes) << index;
  }
}

TEST_F(BootTest, SeveralInitialRamDisksBecomeOne) {
  modules_ = {{.data = bytes_of("first"), .command_line = {}}, {.data = bytes_of("second"), .command_line = {}}};
  auto result = load(make_bzimage({.payload = gzip(vmlinux())}));
  ASSERT_TRUE(result);
  uint64_t zero_page = result->state.gpr[cpu::kRsi];
  EXPECT_EQ(at<uint32_t>(zero_page + 0x21c), 14u);
  EXPECT_EQ(bytes_at(at<uint32_t>(zero_page + 0x218), 14), bytes_of(std::string_view("first\0\0\0second", 14)));
}

TEST_F(BootTest, InitialRamDiskRespectsTheKernelsLimit) {
  modules_ = {{.data = sample(100000), .command_line = {}}};
  auto result = load(make_bzimage({.payload = gzip(vmlinux()), .initrd_max = 0x1ffffff}));
  ASSERT_TRUE(result);
  uint32_t initrd = at<uint32_t>(result->state.gpr[cpu::kRsi] + 0x218);
  EXPECT_LE(initrd + 100000u, 0x2000000u);
  EXPECT_GE(initrd, 0x1fe0000u);
}

TEST_F(BootTest, WhatDoesNotFitIsSaidSo) {
  modules_ = {{.data = std::vector<std::byte>(60u << 20), .command_line = {}}};
  EXPECT_THAT(error_of(make_bzimage({.payload = gzip(vmlinux())})),
              HasSubstr("the initial RAM disk (60 MiB) does not fit"));
  modules_.clear();
  EXPECT_THAT(error_of(make_bzimage({.payload = gzip(vmlinux()), .init_size = 0x10000000})),
              HasSubstr("is not all guest RAM"));
  command_line_ = std::string(2048, 'x');
  EXPECT_THAT(error_of(make_bzimage({.payload = gzip(vmlinux())})),
              HasSubstr("2048 characters; this kernel takes at most 2047"));
  command_line_ = std::string(2047, 'x');
  EXPECT_TRUE(load(make_bzimage({.payload = gzip(vmlinux())})));
}

TEST_F(BootTest, KernelsThatCannotBeUnpackedUnpackThemselves) {
  auto lzo = bytes_of("\x89LZO\r\n some data that nothing here unpacks");
  auto image = make_bzimage({.payload = lzo});
  auto result = load(image);
  ASSERT_TRUE(result) << result.error().to_string();
  EXPECT_EQ(result->state.rip, kKernelAddress + 0x200);
  EXPECT_TRUE(result->state.code64());
  EXPECT_EQ(bytes_at(kKernelAddress, image.size() - 5 * 512),
            std::vector<std::byte>(image.begin() + 5 * 512, image.end()));
  EXPECT_EQ(at<uint32_t>(result->state.gpr[cpu::kRsi] + 0x214), kKernelAddress);
}

TEST_F(BootTest, ThirtyTwoBitKernelsAreEnteredInProtectedMode) {
  auto result = load(make_bzimage({.payload = gzip(make_elf32(0x1000000, sample(100), 0x1000000)), .xloadflags = 0}));
  ASSERT_TRUE(result);
  EXPECT_EQ(result->state.rip, kKernelAddress);
  EXPECT_FALSE(result->state.long_mode_active());
  EXPECT_TRUE(result->state.protected_mode());
  EXPECT_FALSE(result->state.cr0 & cpu::cr0::kPg);
  EXPECT_TRUE(result->state.segment[cpu::kCs].default_big());
}

TEST_F(BootTest, RelocatableKernelMovesWhereItsPlaceIsNotFree) {
  reset_memory(16u << 20);
  EXPECT_THAT(error_of(make_bzimage({.payload = bytes_of("\x89LZO"), .relocatable = 0})),
              HasSubstr("is not all guest RAM"));
  auto result = load(make_bzimage({.payload = bytes_of("\x89LZO"), .init_size = 0x200000}));
  ASSERT_TRUE(result) << result.error().to_string();
  EXPECT_EQ(result->state.rip, 0x200200u);
}

TEST_F(BootTest, DamagedBzImagesAreRefused) {
  auto good = make_bzimage({.payload = gzip(vmlinux())});
  for (size_t length : {size_t{0x206}, size_t{0x230}, size_t{0x263}, size_t{2560}, size_t{2561}, good.size() - 1})
    EXPECT_THAT(error_of(std::span(good).first(length)), HasSubstr("truncated bzImage")) << length;
  auto damaged = good;
  for (size_t i = damaged.size() - 3000; i < damaged.size(); ++i) damaged[i] = std::byte{0x55};
  EXPECT_THAT(error_of(damaged), HasSubstr("a damaged bzImage: gzip data cannot be unpacked"));
  EXPECT_THAT(error_of(make_bzimage({.payload = gzip(vmlinux()), .protocol = 0x0203})),
              HasSubstr("boot protocol 2.03"));
}

TEST_F(BootTest, StrangersAreNamed) {
  EXPECT_THAT(error_of({}), HasSubstr("not a kernel: the file is empty"));
  EXPECT_THAT(error_of(bytes_of("#!/bin/sh\n")), HasSubstr("not a kernel: a script"));
  EXPECT_THAT(error_of(gzip(bytes_of("hello"))), HasSubstr("gzip-compressed data"));
  EXPECT_THAT(error_of(bytes_of("070701 cpio")), HasSubstr("a cpio archive"));
  EXPECT_THAT(error_of(bytes_of("hello, world")), HasSubstr("not a kernel: no bzImage, ELF or Multiboot header"));
  auto arm = vmlinux();
  arm[18] = std::byte{183};
  EXPECT_THAT(error_of(arm), HasSubstr("for processor type 183"));
  EXPECT_THAT(error_of(make_elf32(0x100000, sample(10), 0x100000)),
              HasSubstr("neither a Multiboot header nor a PVH note"));
  EXPECT_THAT(error_of(make_elf64({{kKernelAddress, sample(10), 10}}, 0xffffffff81000000)),
              HasSubstr("not linked like Linux"));
}

TEST_F(BootTest, VmlinuxWithPvhNoteIsEnteredThere) {
  modules_ = {{.data = sample(100), .command_line = "initrd"}};
  auto result = load(make_elf64({{kKernelAddress, sample(5000), 6000}}, kKernelAddress, 0x1000100));
  ASSERT_TRUE(result) << result.error().to_string();
  const cpu::CpuState& state = result->state;
  EXPECT_EQ(state.rip, 0x1000100u);
  EXPECT_TRUE(state.protected_mode());
  EXPECT_FALSE(state.cr0 & cpu::cr0::kPg);
  EXPECT_EQ(state.cr4, 0u);
  EXPECT_EQ(state.segment[cpu::kTr].limit, 0x67u);
  uint64_t info = state.gpr[cpu::kRbx];
  EXPECT_EQ(at<uint32_t>(info), 0x336ec578u);
  EXPECT_EQ(at<uint32_t>(info + 4), 1u);
  ASSERT_EQ(at<uint32_t>(info + 12), 1u);
  uint64_t module = at<uint64_t>(info + 16);
  EXPECT_EQ(bytes_at(at<uint64_t>(module), 100), sample(100));
  EXPECT_EQ(at<uint64_t>(module + 8), 100u);
  EXPECT_EQ(text_at(at<uint64_t>(module + 16)), "initrd");
  EXPECT_EQ(text_at(at<uint64_t>(info + 24)), command_line_);
  EXPECT_EQ(at<uint64_t>(info + 32), 0xe0000u);
  uint64_t map = at<uint64_t>(info + 40);
  ASSERT_EQ(at<uint32_t>(info + 48), map_.size());
  EXPECT_EQ(at<uint64_t>(map + 24 * 3), map_[3].start);
  EXPECT_EQ(at<uint64_t>(map + 24 * 3 + 8), map_[3].size_bytes);
}

TEST_F(BootTest, VmlinuxWithoutNoteGetsAZeroPage) {
  auto result = load(vmlinux());
  ASSERT_TRUE(result);
  EXPECT_TRUE(result->state.code64());
  EXPECT_EQ(text_at(at<uint32_t>(result->state.gpr[cpu::kRsi] + 0x228)), command_line_);
}

TEST_F(BootTest, HostileElfFilesAreRefused) {
  auto image = make_elf64({{kKernelAddress, sample(100), 200}}, kKernelAddress, 0x1000000);
  auto with = [&](size_t offset, uint64_t value, unsigned size) {
    auto changed = image;
    std::memcpy(changed.data() + offset, &value, size);
    return changed;
  };
  EXPECT_THAT(error_of(with(64 + 8, 1u << 30, 8)), HasSubstr("beyond the end of the file"));
  EXPECT_THAT(error_of(with(64 + 8, ~0ull, 8)), HasSubstr("beyond the end of the file"));
  EXPECT_THAT(error_of(with(64 + 32, ~0ull, 8)), HasSubstr("beyond the end of the file"));
  EXPECT_THAT(error_of(with(64 + 40, 50, 8)), HasSubstr("more data than memory"));
  EXPECT_THAT(error_of(with(64 + 24, ~0ull - 10, 8)), HasSubstr("wraps around"));
  EXPECT_THAT(error_of(with(64 + 40, 1ull << 30, 8)), HasSubstr("is not all guest RAM"));
  EXPECT_THAT(error_of(with(64 + 24, 0xa0000, 8)), HasSubstr("is not all guest RAM"));
  EXPECT_THAT(error_of(with(56, 60000, 2)), HasSubstr("program headers"));
  EXPECT_THAT(error_of(with(32, ~0ull, 8)), HasSubstr("program headers"));
  EXPECT_THAT(error_of(with(16, 1, 2)), HasSubstr("not an executable"));
}

std::vector<std::byte> multiboot_header(uint32_t flags, std::initializer_list<uint32_t> addresses = {}) {
  ByteImage header;
  header.u32(0x1badb002).u32(flags).u32(-(0x1badb002 + flags));
  for (uint32_t address : addresses) header.u32(address);
  return header.vector();
}

TEST_F(BootTest, MultibootElf) {
  auto code = multiboot_header(3);
  code.resize(64, std::byte{0x90});
  modules_ = {{.data = bytes_of("module one"), .command_line = "one a=b"},
              {.data = sample(5000), .command_line = "two"}};
  auto result = load(make_elf32(0x100000, code, 0x100020));
  ASSERT_TRUE(result) << result.error().to_string();
  const cpu::CpuState& state = result->state;
  EXPECT_EQ(state.rip, 0x100020u);
  EXPECT_EQ(state.gpr[cpu::kRax], 0x2badb002u);
  EXPECT_TRUE(state.protected_mode());
  EXPECT_FALSE(state.cr0 & cpu::cr0::kPg);
  EXPECT_EQ(state.rflags & (cpu::rflags::kIf | cpu::rflags::kVm), 0u);
  for (auto index : {cpu::kCs, cpu::kDs, cpu::kEs, cpu::kFs, cpu::kGs, cpu::kSs}) {
    EXPECT_EQ(state.segment[index].base, 0u);
    EXPECT_EQ(state.segment[index].limit, 0xffffffffu);
  }
  uint64_t info = state.gpr[cpu::kRbx];
  EXPECT_EQ(at<uint32_t>(info), 1u | 4 | 8 | 64 | 512);
  EXPECT_EQ(at<uint32_t>(info + 4), 639u);
  EXPECT_EQ(at<uint32_t>(info + 8), 63u * 1024);
  EXPECT_EQ(text_at(at<uint32_t>(info + 16)), command_line_);
  EXPECT_EQ(text_at(at<uint32_t>(info + 64)), "rhea");
  ASSERT_EQ(at<uint32_t>(info + 20), 2u);
  uint32_t modules = at<uint32_t>(info + 24);
  EXPECT_EQ(at<uint32_t>(modules) % 4096, 0u);
  EXPECT_EQ(bytes_at(at<uint32_t>(modules), 10), bytes_of("module one"));
  EXPECT_EQ(at<uint32_t>(modules + 4) - at<uint32_t>(modules), 10u);
  EXPECT_EQ(text_at(at<uint32_t>(modules + 8)), "one a=b");
  EXPECT_EQ(bytes_at(at<uint32_t>(modules + 16), 5000), sample(5000));
  // The map is walked by its own entry sizes.
  uint32_t map = at<uint32_t>(info + 48), end = map + at<uint32_t>(info + 44);
  size_t count = 0;
  for (uint32_t entry = map; entry < end; entry += at<uint32_t>(entry) + 4, ++count) {
    EXPECT_EQ(at<uint64_t>(entry + 4), map_[count].start);
    EXPECT_EQ(at<uint64_t>(entry + 12), map_[count].size_bytes);
  }
  EXPECT_EQ(count, map_.size());
}

TEST_F(BootTest, MultibootAddressFields) {
  // 256 bytes of file before the loaded part, header 16 bytes into it.
  constexpr uint32_t kLoad = 0x200000;
  std::vector<std::byte> file(256, std::byte{0xee});
  auto code = sample(16);
  auto header = multiboot_header(0x10000, {kLoad + 16, kLoad, kLoad + 200, kLoad + 4000, kLoad + 100});
  file.insert(file.end(), code.begin(), code.end());
  file.insert(file.end(), header.begin(), header.end());
  file.resize(256 + 1000, std::byte{0x77});
  memory_->write({kLoad + 200}, std::as_bytes(std::span("old content that the BSS must clear")));
  auto result = load(file);
  ASSERT_TRUE(result) << result.error().to_string();
  EXPECT_EQ(result->state.rip, kLoad + 100);
  EXPECT_EQ(bytes_at(kLoad, 16), code);
  EXPECT_EQ(at<uint8_t>(kLoad + 199), 0x77);
  EXPECT_EQ(at<uint8_t>(kLoad + 200), 0);

  auto broken = [&](std::initializer_list<uint32_t> addresses) {
    auto changed = multiboot_header(0x10000, addresses);
    changed.resize(4096);
    return error_of(changed);
  };
  EXPECT_THAT(broken({kLoad - 1, kLoad, 0, 0, kLoad}), HasSubstr("header lies before its load address"));
  EXPECT_THAT(broken({kLoad + 1, kLoad, 0, 0, kLoad}), HasSubstr("before the file's start"));
  EXPECT_THAT(broken({kLoad, kLoad, kLoad + 4097, 0, kLoad}), HasSubstr("beyond the end of the file"));
  EXPECT_THAT(broken({kLoad, kLoad, kLoad - 1, 0, kLoad}), HasSubstr("ends before"));
  EXPECT_THAT(broken({kLoad, kLoad, 0, kLoad + 1, kLoad}), HasSubstr("BSS ends before"));
  EXPECT_THAT(broken({0xfffffff0, 0xfffffff0, 0, 0, 0}), HasSubstr("not all guest RAM"));
}

TEST_F(BootTest, MultibootFlagsAreChecked) {
  for (uint32_t flags : {4u, 8u, 0x8000u}) {
    auto code = multiboot_header(flags);
    EXPECT_THAT(error_of(make_elf32(0x100000, code, 0x100000)), HasSubstr("Multiboot kernel that requires")) << flags;
  }
  auto bad_sum = multiboot_header(0);
  bad_sum[8] ^= std::byte{1};
  EXPECT_FALSE(find_multiboot_header(bad_sum));
  std::vector<std::byte> far(8192);
  auto header = multiboot_header(0);
  far.insert(far.end(), header.begin(), header.end());
  EXPECT_FALSE(find_multiboot_header(far));
}

TEST(Placement, NeverOverlaps) {
  MemoryMap map = {
      {0, 0x10000, MemoryType::kRam}, {0x10000, 0x1000, MemoryType::kReserved}, {0x11000, 0xf000, MemoryType::kRam}};
  Placement placement(map);
  EXPECT_TRUE(placement.claim(0x2000, 0x1000, "a"));
  EXPECT_FALSE(placement.claim(0x2fff, 2, "b"));
  EXPECT_FALSE(placement.claim(0xf000, 0x3000, "across"));
  EXPECT_FALSE(placement.claim(~uint64_t{0}, 2, "wrap"));
  EXPECT_EQ(*placement.claim_low(0x1000, 0x1000, 0x1000, 0x100000, "c"), 0x1000u);
  EXPECT_EQ(*placement.claim_low(0x1000, 0x1000, 0x1000, 0x100000, "d"), 0x3000u);
  EXPECT_EQ(*placement.claim_high(0x1800, 0x1000, 0, 0x20000, "e"), 0x1e000u);
  EXPECT_EQ(*placement.claim_high(0x1000, 0x1000, 0, 0x20000, "f"), 0x1d000u);
  EXPECT_FALSE(placement.claim_high(0xd000, 0x1000, 0x10000, 0x20000, "g"));
  EXPECT_EQ(*placement.claim_high(0xc000, 0x1000, 0x10000, 0x20000, "g"), 0x11000u);
}

TEST(Mtrrs, CoverThePciHoleExactly) {
  auto state = std::make_unique<cpu::CpuState>();
  program_mtrrs(*state, 0xc0000000, 40);
  EXPECT_EQ(state->mtrr_def_type, 0xc06u);
  EXPECT_EQ(state->mtrr_base[0], 0xc0000000u);
  EXPECT_EQ(state->mtrr_mask[0], 0xffc0000800u);
  EXPECT_EQ(state->mtrr_mask[1], 0u);
}

}  // namespace
}  // namespace rhea::machine
