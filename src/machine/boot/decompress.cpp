// SPDX-License-Identifier: Apache-2.0
// The unpackers: one push loop over each library's streaming interface, and the block loop of legacy LZ4.
#include "machine/boot/decompress.h"

#include <bzlib.h>
#include <fmt/format.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>

#include "machine/boot/byte_view.h"

namespace rhea::machine {
namespace {

constexpr size_t kChunkBytes = 1u << 20;
constexpr size_t kDecoderMemoryBytes = 256u << 20;  // for dictionaries that a hostile header asks for
constexpr uint32_t kLz4LegacyMagic = 0x184c2102;
constexpr uint32_t kLz4LegacyBlockBytes = 8u << 20;  // [lz4-frame-format, legacy frame]

struct Magic {
  Compression compression;
  std::array<uint8_t, 6> bytes;
  size_t length;
};
constexpr Magic kMagics[] = {
    {Compression::kGzip, {0x1f, 0x8b, 0x08}, 3},       {Compression::kXz, {0xfd, '7', 'z', 'X', 'Z', 0}, 6},
    {Compression::kZstd, {0x28, 0xb5, 0x2f, 0xfd}, 4}, {Compression::kLz4, {0x02, 0x21, 0x4c, 0x18}, 4},
    {Compression::kBzip2, {'B', 'Z', 'h'}, 3},         {Compression::kLzma, {0x5d, 0, 0}, 3},
    {Compression::kLzo, {0x89, 'L', 'Z', 'O'}, 4},
};

std::unexpected<Error> corrupt(Compression compression, std::string_view why) {
  return fail(ErrorCode::kCorrupt, fmt::format("{} data cannot be unpacked: {}", compression_name(compression), why));
}
std::unexpected<Error> too_large(uint64_t limit_bytes) {
  return fail(ErrorCode::kExhausted, fmt::format("it unpacks to more than {} MiB", limit_bytes >> 20));
}

// What comes out, grown chunk by chunk so that a lying size field reserves nothing.
class Output {
 public:
  explicit Output(uint64_t limit_bytes) : limit_(limit_bytes) {}

  // Room for the next bytes; empty once the limit is reached. One byte above the limit is offered, so that
  // data of exactly the limit's size can reach its end mark.
  std::span<std::byte> room() {
    if (used_ == bytes_.size()) {
      uint64_t ceiling = limit_ + 1;
      uint64_t step = std::max<uint64_t>(kChunkBytes, bytes_.size() / 2);
      bytes_.resize(std::min<uint64_t>(ceiling, bytes_.size() + step));
    }
    return std::span(bytes_).subspan(used_);
  }
  void commit(size_t count) { used_ += count; }
  bool over_limit() const { return used_ > limit_; }
  std::vector<std::byte> finish() {
    bytes_.resize(used_);
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
  size_t used_ = 0;
  uint64_t limit_;
};

enum class Step { kMore, kEnd, kBroken };
struct Progress {
  Step step;
  size_t consumed;
  size_t produced;
};

// Feeds `data` to `run` until it ends, breaks, stalls or outgrows the limit.
template <class Run>
Result<std::vector<std::byte>> pump(Compression compression, std::span<const std::byte> data, uint64_t limit_bytes,
                                    Run run) {
  Output output(limit_bytes);
  while (true) {
    std::span<std::byte> room = output.room();
    std::span<const std::byte> input = data.first(std::min<size_t>(data.size(), 1u << 30));
    Progress progress = run(input, room);
    data = data.subspan(progress.consumed);
    output.commit(progress.produced);
    if (output.over_limit()) return too_large(limit_bytes);
    if (progress.step == Step::kEnd) return output.finish();
    if (progress.step == Step::kBroken) return corrupt(compression, "the data is damaged");
    if (progress.consumed == 0 && progress.produced == 0) return corrupt(compression, "it ends early");
  }
}

Result<std::vector<std::byte>> unpack_gzip(std::span<const std::byte> data, uint64_t limit_bytes) {
  z_stream stream{};
  if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) return corrupt(Compression::kGzip, "out of memory");
  auto cleanup = std::unique_ptr<z_stream, void (*)(z_stream*)>(&stream, [](z_stream* s) { inflateEnd(s); });
  return pump(Compression::kGzip, data, limit_bytes, [&](std::span<const std::byte> input, std::span<std::byte> room) {
    // SAFETY: zlib reads next_in only; its type lacks the const unless ZLIB_CONST is set.
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(input.data()));
    stream.avail_in = static_cast<uInt>(input.size());
    stream.next_out = reinterpret_cast<Bytef*>(room.data());
    stream.avail_out = static_cast<uInt>(room.size());
    int status = inflate(&stream, Z_NO_FLUSH);
    Step step = status == Z_STREAM_END                    ? Step::kEnd
                : status == Z_OK || status == Z_BUF_ERROR ? Step::kMore
                                                          : Step::kBroken;
    return Progress{step, input.size() - stream.avail_in, room.size() - stream.avail_out};
  });
}

Result<std::vector<std::byte>> unpack_bzip2(std::span<const std::byte> data, uint64_t limit_bytes) {
  bz_stream stream{};
  if (BZ2_bzDecompressInit(&stream, 0, 0) != BZ_OK) return corrupt(Compression::kBzip2, "out of memory");
  auto cleanup =
      std::unique_ptr<bz_stream, void (*)(bz_stream*)>(&stream, [](bz_stream* s) { BZ2_bzDecompressEnd(s); });
  return pump(Compression::kBzip2, data, limit_bytes, [&](std::span<const std::byte> input, std::span<std::byte> room) {
    // SAFETY: libbz2 reads next_in only.
    stream.next_in = reinterpret_cast<char*>(const_cast<std::byte*>(input.data()));
    stream.avail_in = static_cast<unsigned>(input.size());
    stream.next_out = reinterpret_cast<char*>(room.data());
    stream.avail_out = static_cast<unsigned>(room.size());
    int status = BZ2_bzDecompress(&stream);
    Step step = status == BZ_STREAM_END ? Step::kEnd : status == BZ_OK ? Step::kMore : Step::kBroken;
    return Progress{step, input.size() - stream.avail_in, room.size() - stream.avail_out};
  });
}

Result<std::vector<std::byte>> unpack_lzma(Compression compression, std::span<const std::byte> data,
                                           uint64_t limit_bytes) {
  lzma_stream stream = LZMA_STREAM_INIT;
  lzma_ret ready = compression == Compression::kXz ? lzma_stream_decoder(&stream, kDecoderMemoryBytes, 0)
                                                   : lzma_alone_decoder(&stream, kDecoderMemoryBytes);
  if (ready != LZMA_OK) return corrupt(compression, "out of memory");
  auto cleanup = std::unique_ptr<lzma_stream, void (*)(lzma_stream*)>(&stream, [](lzma_stream* s) { lzma_end(s); });
  return pump(compression, data, limit_bytes, [&](std::span<const std::byte> input, std::span<std::byte> room) {
    stream.next_in = reinterpret_cast<const uint8_t*>(input.data());
    stream.avail_in = input.size();
    stream.next_out = reinterpret_cast<uint8_t*>(room.data());
    stream.avail_out = room.size();
    lzma_ret status = lzma_code(&stream, LZMA_RUN);
    Step step = status == LZMA_STREAM_END                       ? Step::kEnd
                : status == LZMA_OK || status == LZMA_BUF_ERROR ? Step::kMore
                                                                : Step::kBroken;
    return Progress{step, input.size() - stream.avail_in, room.size() - stream.avail_out};
  });
}

Result<std::vector<std::byte>> unpack_zstd(std::span<const std::byte> data, uint64_t limit_bytes) {
  std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context(ZSTD_createDCtx(), ZSTD_freeDCtx);
  if (!context || ZSTD_isError(ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, 28)))
    return corrupt(Compression::kZstd, "out of memory");
  return pump(Compression::kZstd, data, limit_bytes, [&](std::span<const std::byte> input, std::span<std::byte> room) {
    ZSTD_inBuffer in{input.data(), input.size(), 0};
    ZSTD_outBuffer out{room.data(), room.size(), 0};
    size_t status = ZSTD_decompressStream(context.get(), &out, &in);
    Step step = ZSTD_isError(status) ? Step::kBroken : status == 0 ? Step::kEnd : Step::kMore;
    return Progress{step, in.pos, out.pos};
  });
}

// Linux compresses with the legacy frame: magic, then blocks of (compressed size, data), each of up to 8 MiB
// unpacked, with no end mark; the four bytes left at the end are the unpacked size that the build appends.
Result<std::vector<std::byte>> unpack_lz4(std::span<const std::byte> data, uint64_t limit_bytes) {
  ByteView view(data);
  std::vector<std::byte> output;
  std::vector<std::byte> block(kLz4LegacyBlockBytes);
  uint64_t offset = 4;
  while (offset + 4 < view.size()) {
    uint32_t packed_bytes = view.u32(offset);
    if (packed_bytes == kLz4LegacyMagic) {  // frames may follow one another
      offset += 4;
      continue;
    }
    auto packed = view.slice(offset + 4, packed_bytes);
    if (!packed || packed_bytes == 0 || packed_bytes > static_cast<uint32_t>(LZ4_COMPRESSBOUND(kLz4LegacyBlockBytes)))
      return corrupt(Compression::kLz4, "it ends early");
    int unpacked =
        LZ4_decompress_safe(reinterpret_cast<const char*>(packed->data()), reinterpret_cast<char*>(block.data()),
                            static_cast<int>(packed_bytes), static_cast<int>(block.size()));
    if (unpacked < 0) return corrupt(Compression::kLz4, "the data is damaged");
    if (output.size() + static_cast<size_t>(unpacked) > limit_bytes) return too_large(limit_bytes);
    output.insert(output.end(), block.begin(), block.begin() + unpacked);
    offset += 4 + uint64_t{packed_bytes};
  }
  return output;
}

}  // namespace

Compression detect_compression(std::span<const std::byte> data) {
  for (const Magic& magic : kMagics) {
    if (data.size() >= magic.length && std::memcmp(data.data(), magic.bytes.data(), magic.length) == 0)
      return magic.compression;
  }
  return Compression::kNone;
}

std::string_view compression_name(Compression compression) {
  switch (compression) {
    case Compression::kNone: return "uncompressed";
    case Compression::kGzip: return "gzip";
    case Compression::kXz: return "xz";
    case Compression::kZstd: return "zstd";
    case Compression::kLz4: return "lz4";
    case Compression::kBzip2: return "bzip2";
    case Compression::kLzma: return "lzma";
    case Compression::kLzo: return "lzo";
  }
  return "unknown";
}

Result<std::vector<std::byte>> decompress(std::span<const std::byte> data, uint64_t limit_bytes) {
  Compression compression = detect_compression(data);
  switch (compression) {
    case Compression::kGzip: return unpack_gzip(data, limit_bytes);
    case Compression::kXz:
    case Compression::kLzma: return unpack_lzma(compression, data, limit_bytes);
    case Compression::kZstd: return unpack_zstd(data, limit_bytes);
    case Compression::kLz4: return unpack_lz4(data, limit_bytes);
    case Compression::kBzip2: return unpack_bzip2(data, limit_bytes);
    case Compression::kNone:
    case Compression::kLzo: break;
  }
  return fail(ErrorCode::kUnsupported, fmt::format("{} data cannot be unpacked here", compression_name(compression)));
}

}  // namespace rhea::machine
