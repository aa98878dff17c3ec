// SPDX-License-Identifier: Apache-2.0
// New images, and what old ones hold.
#include "block/image_tools.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/endian.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "block/disk.h"
#include "block/file_lock.h"
#include "block/layer.h"
#include "block/qcow2_format.h"

namespace rhea::block {
namespace {

constexpr unsigned kClusterBits = 16;
constexpr uint64_t kCluster = uint64_t{1} << kClusterBits;
constexpr size_t kHeaderLength = 104;
constexpr uint32_t kBackingFormatExtension = 0xe2792aca;

using Bytes = std::vector<std::byte>;

void append_extension(Bytes& header, uint32_t type, const std::string& text) {
  Bytes extension(8 + ((text.size() + 7) & ~size_t{7}));
  base::store_be<uint32_t>(&extension[0], type);
  base::store_be<uint32_t>(&extension[4], static_cast<uint32_t>(text.size()));
  std::memcpy(&extension[8], text.data(), text.size());
  header.insert(header.end(), extension.begin(), extension.end());
}

// Header, table of reference counts, its one block, first-level table: the clusters of an empty image.
Bytes qcow2_metadata(uint64_t disk_bytes, const CreateOptions& options) {
  const uint64_t per_table = kCluster * (kCluster / 8);
  const uint64_t l1_entries = std::max<uint64_t>(1, (disk_bytes + per_table - 1) / per_table);
  const uint64_t l1_clusters = (l1_entries * 8 + kCluster - 1) / kCluster;
  Bytes header(kHeaderLength);
  base::store_be<uint32_t>(&header[0], qcow2::kMagic);
  base::store_be<uint32_t>(&header[4], 3);
  base::store_be<uint32_t>(&header[20], kClusterBits);
  base::store_be<uint64_t>(&header[24], disk_bytes);
  base::store_be<uint32_t>(&header[36], static_cast<uint32_t>(l1_entries));
  base::store_be<uint64_t>(&header[40], 3 * kCluster);
  base::store_be<uint64_t>(&header[48], kCluster);
  base::store_be<uint32_t>(&header[56], 1);
  base::store_be<uint32_t>(&header[96], 4);
  base::store_be<uint32_t>(&header[100], kHeaderLength);
  if (!options.backing_file.empty()) append_extension(header, kBackingFormatExtension, options.backing_format);
  append_extension(header, 0, "");
  if (!options.backing_file.empty()) {
    base::store_be<uint64_t>(&header[8], header.size());
    base::store_be<uint32_t>(&header[16], static_cast<uint32_t>(options.backing_file.size()));
    const auto* name = reinterpret_cast<const std::byte*>(options.backing_file.data());
    header.insert(header.end(), name, name + options.backing_file.size());
  }
  header.resize((3 + l1_clusters) * kCluster);
  base::store_be<uint64_t>(&header[kCluster], 2 * kCluster);
  for (uint64_t i = 0; i < 3 + l1_clusters; ++i) base::store_be<uint16_t>(&header[2 * kCluster + 2 * i], 1);
  return header;
}

Result<uint64_t> disk_size(const CreateOptions& options) {
  if (options.size_bytes) return *options.size_bytes;
  if (options.backing_file.empty())
    return fail(ErrorCode::kInvalidArgument, "how large is the disk to be? Give a size such as 10G");
  const auto folder = std::filesystem::absolute(options.path).parent_path();
  return RHEA_TRY(inspect_image((folder / options.backing_file).string(), options.backing_format)).disk_bytes;
}

Status check(const CreateOptions& options) {
  if (options.format != "raw" && options.format != "qcow2")
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("unknown disk format '{}' (known: raw, qcow2)", options.format));
  if (options.backing_file.empty()) return {};
  if (options.format == "raw")
    return fail(ErrorCode::kInvalidArgument, "a raw image has no backing file; use the format qcow2");
  if (options.backing_format != "raw" && options.backing_format != "qcow2")
    return fail(ErrorCode::kInvalidArgument, "say of which format the backing file is: raw or qcow2");
  if (options.backing_file.size() > 1023)
    return fail(ErrorCode::kInvalidArgument, "the backing file's name is too long");
  return {};
}

}  // namespace

Status create_image(const CreateOptions& options) {
  RHEA_TRY(check(options));
  const uint64_t bytes = RHEA_TRY(disk_size(options));
  if (bytes == 0 || bytes % 512 != 0 || bytes > qcow2::kMaximumDiskBytes)
    return fail(ErrorCode::kInvalidArgument, "a disk's size is a multiple of 512 bytes, and not zero");
  base::UniqueFd fd(open(options.path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, options.mode));
  if (!fd) return fail(Error::from_errno(errno, fmt::format("cannot create {}", options.path)));
  int error = 0;
  if (options.format == "raw")
    error = ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  else
    error = write_fully(fd.get(), 0, qcow2_metadata(bytes, options));
  if (!error && fdatasync(fd.get()) != 0) error = errno;
  if (!error) return {};
  unlink(options.path.c_str());
  return fail(Error::from_errno(error, fmt::format("cannot write {}", options.path)));
}

std::string format_by_name(std::string_view path) { return path.ends_with(".qcow2") ? "qcow2" : "raw"; }

Result<std::string> format_unsaid(const std::string& path, std::string_view how_to_say) {
  const std::string format = format_by_name(path);
  if (format != "raw") return format;
  const base::UniqueFd fd = RHEA_TRY(open_image_file(path, O_RDONLY));
  std::byte head[4] = {};
  if (const int error = read_fully(fd.get(), 0, head)) return fail(Error::from_errno(error, path));
  if (base::load_be<uint32_t>(head) != qcow2::kMagic) return format;
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("{} begins as a qcow2 image does, but its name does not end in .qcow2, and a guest can have "
                          "written that: say which it is with {}",
                          path, how_to_say));
}

Result<ImageInfo> inspect_image(const std::string& path, const std::string& format) {
  base::UniqueFd fd = RHEA_TRY(open_image_file(path, O_RDONLY));
  struct stat info{};
  if (fstat(fd.get(), &info) != 0) return fail(Error::from_errno(errno, path));
  ImageInfo result{.format = "raw",
                   .disk_bytes = RHEA_TRY(size_of_image_file(fd.get(), path)),
                   .file_bytes = static_cast<uint64_t>(info.st_blocks) * 512};
  if (format == "raw") return result;
  Bytes head(size_t{1} << 16);
  if (const int error = read_fully(fd.get(), 0, head)) return fail(Error::from_errno(error, path));
  if (format.empty() && base::load_be<uint32_t>(head.data()) != qcow2::kMagic) return result;
  auto header = qcow2::parse_header(head);
  if (!header) return fail(header.error().context(path));
  result.format = "qcow2";
  result.disk_bytes = header->disk_bytes;
  result.cluster_bytes = header->cluster_bytes();
  result.version = header->version;
  result.backing_file = header->backing_file;
  result.backing_format = header->backing_format;
  return result;
}

Status resize_image(const ResizeOptions& options) {
  if (options.size_bytes == 0 || options.size_bytes % 512 != 0 || options.size_bytes > qcow2::kMaximumDiskBytes)
    return fail(ErrorCode::kInvalidArgument, "a disk's size is a multiple of 512 bytes, and not zero");
  auto loop = RHEA_TRY(base::EventLoop::create());
  auto disk = RHEA_TRY(
      open_disk(*loop, options.path, {.format = options.format, .backing_anywhere = options.backing_anywhere}));
  if (options.size_bytes < disk->size_bytes() && !options.shrink)
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} has {} bytes, more than that: what lies behind its new end would be lost. Shrink the "
                            "file systems and partitions in it first, then say --shrink",
                            options.path, disk->size_bytes()));
  if (const int error = disk->resize(options.size_bytes))
    return fail(Error::from_errno(error, fmt::format("resizing {}", options.path)));
  return {};
}

Result<qcow2::CheckReport> check_image(const std::string& path, const qcow2::CheckOptions& options) {
  const base::UniqueFd fd = RHEA_TRY(open_image_file(path, options.repair ? O_RDWR : O_RDONLY));
  RHEA_TRY(lock_image(fd.get(), options.repair, path));
  Bytes head(size_t{1} << 16);
  if (const int error = read_fully(fd.get(), 0, head)) return fail(Error::from_errno(error, path));
  const auto header = qcow2::parse_header(head);
  if (!header) return fail(header.error().context(path));
  auto report = qcow2::check_image_file(fd.get(), *header, options);
  if (!report) return fail(report.error().context(path));
  return report;
}

}  // namespace rhea::block
