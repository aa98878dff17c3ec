// SPDX-License-Identifier: Apache-2.0
// Requests on a qcow2 image.
#include "block/qcow2_disk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <filesystem>
#include <set>

#include "block/async_file.h"
#include "block/file_lock.h"
#include "block/qcow2_check.h"
#include "block/qcow2_image.h"

namespace rhea::block {
namespace {

constexpr unsigned kMaximumChain = 64;

// Copies a part of a request's buffers, from `skip` bytes on.
std::vector<iovec> slice(const std::vector<iovec>& buffers, uint64_t skip, uint64_t length) {
  std::vector<iovec> part;
  for (const iovec& piece : buffers) {
    if (length == 0) break;
    if (skip >= piece.iov_len) {
      skip -= piece.iov_len;
      continue;
    }
    const size_t bytes = std::min<uint64_t>(piece.iov_len - skip, length);
    part.push_back({static_cast<char*>(piece.iov_base) + skip, bytes});
    length -= bytes;
    skip = 0;
  }
  return part;
}

void gather(const std::vector<iovec>& buffers, std::byte* out) {
  for (const iovec& piece : buffers) {
    std::memcpy(out, piece.iov_base, piece.iov_len);
    out += piece.iov_len;
  }
}

void scatter(const std::vector<iovec>& buffers, const std::byte* from) {
  for (const iovec& piece : buffers) {
    from ? std::memcpy(piece.iov_base, from, piece.iov_len) : std::memset(piece.iov_base, 0, piece.iov_len);
    if (from) from += piece.iov_len;
  }
}

class Qcow2Disk final : public Disk {
 public:
  Qcow2Disk(std::unique_ptr<Qcow2Image> image, std::vector<std::unique_ptr<AsyncFile>> files, bool read_only)
      : image_(std::move(image)), files_(std::move(files)), read_only_(read_only) {}
  uint64_t size_bytes() const override { return image_->size_bytes() & ~uint64_t{511}; }
  bool read_only() const override { return read_only_; }
  std::string_view format() const override { return "qcow2"; }

  uint64_t compressed_unit() const override { return image_->cluster_bytes(); }
  int write_compressed(uint64_t offset, std::span<const std::byte> bytes) override {
    std::vector<std::byte> cluster(image_->cluster_bytes());
    for (; !bytes.empty(); bytes = bytes.subspan(std::min(bytes.size(), cluster.size()))) {
      const auto part = bytes.first(std::min(bytes.size(), cluster.size()));
      std::ranges::fill(cluster, std::byte{0});
      std::ranges::copy(part, cluster.begin());
      if (const int error = image_->write_compressed(offset, cluster)) return error;
      offset += part.size();
    }
    return 0;
  }
  int resize(uint64_t bytes) override { return image_->resize(bytes); }

  uint64_t next_data(uint64_t offset) override {
    while (offset < size_bytes()) {
      Layer::Extent extent;
      if (image_->map(offset, size_bytes() - offset, extent)) return offset;  // reading it says what is wrong
      if (extent.kind == Layer::Kind::kCompressed) return offset;
      if (extent.kind == Layer::Kind::kData) {
        const uint64_t end = extent.offset + extent.length;
        const uint64_t found = next_data_in_file(extent.layer->fd(), extent.offset, end);
        if (found < end) return offset + (found - extent.offset);
      }
      offset += extent.length;
    }
    return size_bytes();
  }

  void submit(Request request) override {
    // A cluster being filled belongs to one request: others that touch it wait.
    if (touches_busy(request)) {
      waiting_.push_back(std::move(request));
      return;
    }
    start(std::move(request));
  }

 private:
  // A request under way: finished when its last part is, with the first error.
  struct Job {
    Request request;
    unsigned parts = 1;  // 1: being started
    int error = 0;
  };
  using JobPtr = std::shared_ptr<Job>;

  uint64_t cluster_of(uint64_t offset) const { return offset / image_->cluster_bytes(); }
  bool touches_busy(const Request& request) const {
    if (busy_.empty() || request.length == 0) return false;
    const auto at = busy_.lower_bound(cluster_of(request.offset));
    return at != busy_.end() && *at <= cluster_of(request.offset + request.length - 1);
  }

  void start(Request request) {
    auto job = std::make_shared<Job>(Job{.request = std::move(request)});
    switch (job->request.operation) {
      case Operation::kRead: start_read(job); break;
      case Operation::kWrite: start_write(job); break;
      case Operation::kFlush: note(*job, image_->flush()); break;
      case Operation::kDiscard: job->request.may_unmap = true; [[fallthrough]];
      case Operation::kWriteZeroes: start_zeroes(job); break;
    }
    end_part(job, 0);
  }

  static void note(Job& job, int error) {
    if (error && !job.error) job.error = error;
  }
  void end_part(const JobPtr& job, int error) {
    note(*job, error);
    if (--job->parts == 0) job->request.done(job->error);
  }

  // Clusters of the image's own file that a read is under way in; none where it is a backing file's.
  struct Span {
    uint64_t first = 0, end = 0;
  };
  Span pin(const Layer::Extent& extent) {
    if (extent.layer != image_.get()) return {};
    const uint64_t cluster = image_->cluster_bytes();
    const Span span{extent.offset - extent.offset % cluster, extent.offset + extent.length};
    for (uint64_t at = span.first; at < span.end; at += cluster) image_->pin(at);
    return span;
  }
  void unpin(const Span& span) {
    for (uint64_t at = span.first; at < span.end; at += image_->cluster_bytes()) image_->unpin(at);
  }

  void start_read(const JobPtr& job) {
    const Request& r = job->request;
    for (uint64_t done = 0; done < r.length && !job->error;) {
      Layer::Extent extent;
      if (const int error = image_->map(r.offset + done, r.length - done, extent)) return note(*job, error);
      // What follows on in the file is read at once.
      for (Layer::Extent next; extent.kind == Layer::Kind::kData && done + extent.length < r.length;) {
        if (image_->map(r.offset + done + extent.length, r.length - done - extent.length, next)) break;
        if (next.kind != Layer::Kind::kData || next.layer != extent.layer ||
            next.offset != extent.offset + extent.length)
          break;
        extent.length += next.length;
      }
      std::vector<iovec> part = slice(r.buffers, done, extent.length);
      done += extent.length;
      if (extent.kind == Layer::Kind::kZero) {
        scatter(part, nullptr);
      } else if (extent.kind == Layer::Kind::kData) {
        ++job->parts;
        const Span used = pin(extent);
        extent.layer->file()->read(extent.offset, std::move(part), [this, job, used](int error) {
          unpin(used);
          end_part(job, error);
        });
      } else {
        std::vector<std::byte> bytes(extent.length);
        note(*job, extent.layer->read_compressed(extent, bytes));
        scatter(part, bytes.data());
      }
    }
  }

  void start_write(const JobPtr& job) {
    const Request& r = job->request;
    const uint64_t cluster = image_->cluster_bytes();
    for (uint64_t done = 0; done < r.length && !job->error;) {
      const uint64_t offset = r.offset + done;
      const uint64_t length = std::min(r.length - done, cluster - offset % cluster);
      std::vector<iovec> part = slice(r.buffers, done, length);
      done += length;
      uint64_t place = 0;
      bool in_place = false;
      if (const int error = image_->find_writable(offset, place, in_place)) return note(*job, error);
      if (in_place) {
        ++job->parts;
        image_->pin(place);
        image_->file()->write(place + offset % cluster, std::move(part), [this, job, place](int error) {
          image_->unpin(place);
          end_part(job, error);
        });
      } else {
        write_new_cluster(job, offset, length, part);
      }
    }
  }

  // The whole cluster is written to a new place, around the new bytes what it held; then the tables point there.
  void write_new_cluster(const JobPtr& job, uint64_t offset, uint64_t length, const std::vector<iovec>& part) {
    const uint64_t cluster = image_->cluster_bytes(), first = offset - offset % cluster;
    auto bytes = std::make_shared<std::vector<std::byte>>(cluster);
    if (length != cluster)
      if (const int error = image_->read(first, *bytes)) return note(*job, error);
    gather(part, bytes->data() + (offset - first));
    uint64_t place = 0;
    if (const int error = image_->allocate(place)) return note(*job, error);
    ++job->parts;
    busy_.insert(cluster_of(offset));
    image_->file()->write(place, {{bytes->data(), bytes->size()}}, [this, job, bytes, first, place](int error) {
      if (!error) error = image_->point_to(first, place);
      if (error) image_->abandon(place);
      busy_.erase(cluster_of(first));
      end_part(job, error);
      start_waiting();
    });
  }

  void start_zeroes(const JobPtr& job) {
    const Request& r = job->request;
    const uint64_t cluster = image_->cluster_bytes();
    for (uint64_t done = 0; done < r.length && !job->error;) {
      const uint64_t offset = r.offset + done;
      const uint64_t length = std::min(r.length - done, cluster - offset % cluster);
      done += length;
      const bool whole = length == cluster || (offset % cluster == 0 && offset + length == image_->size_bytes());
      bool zeroed = false;
      if (whole) note(*job, image_->make_zero(offset, r.may_unmap, zeroed));
      if (zeroed || r.operation == Operation::kDiscard || job->error) continue;  // a discard is a hint
      ++job->parts;
      auto zeros = std::make_shared<std::vector<std::byte>>(length);
      submit({.operation = Operation::kWrite,
              .offset = offset,
              .length = length,
              .buffers = {{zeros->data(), zeros->size()}},
              .done = [this, job, zeros](int error) { end_part(job, error); }});
    }
  }

  // In order of arrival: one that still has to wait holds up none but those behind it that touch the same.
  void start_waiting() {
    std::deque<Request> waiting;
    waiting.swap(waiting_);
    for (Request& request : waiting) submit(std::move(request));
  }

  std::unique_ptr<Qcow2Image> image_;
  std::vector<std::unique_ptr<AsyncFile>> files_;
  const bool read_only_;
  std::set<uint64_t> busy_;  // clusters being filled
  std::deque<Request> waiting_;
};

// Opens the files of a backing chain, the topmost already open.
class ChainOpener {
 public:
  ChainOpener(base::EventLoop& loop, const OpenOptions& options) : loop_(loop), options_(options) {}
  std::vector<std::unique_ptr<AsyncFile>> files;

  Result<std::unique_ptr<Qcow2Image>> open_qcow2(base::UniqueFd fd, const std::string& path, bool writable) {
    std::vector<std::byte> head(size_t{1} << 16);
    if (const int error = read_fully(fd.get(), 0, head)) return fail(Error::from_errno(error, path));
    auto header = qcow2::parse_header(head);
    if (!header) return fail(header.error().context(path));
    if (writable && (header->incompatible & qcow2::kDirty) && !(header->incompatible & qcow2::kCorrupt))
      header = RHEA_TRY(repair(fd.get(), *header, path));
    std::unique_ptr<Layer> backing;
    if (!header->backing_file.empty()) backing = RHEA_TRY(open_backing(*header, path));
    auto image =
        Qcow2Image::open(std::move(fd), *header, std::move(backing), writable, writable ? options_.table_log : nullptr);
    if (!image) return fail(image.error().context(path));
    RHEA_TRY(attach(**image));
    return std::move(*image);
  }

 private:
  // Another program kept the reference counts lazily and did not close the image: [QCOW2] asks for them to be made anew
  // before it is written to.
  static Result<qcow2::Header> repair(int fd, const qcow2::Header& header, const std::string& path) {
    auto report = qcow2::check_image_file(fd, header, {.repair = true});
    if (!report) return fail(report.error().context(path));
    if (!report->repaired)
      return fail(ErrorCode::kCorrupt, fmt::format("{}: the image was not closed, and is corrupt: {}; open it "
                                                   "readonly=on and save what is in it",
                                                   path, report->findings.empty() ? "" : report->findings.front()));
    std::vector<std::byte> head(size_t{1} << 16);
    if (const int error = read_fully(fd, 0, head)) return fail(Error::from_errno(error, path));
    return qcow2::parse_header(head);
  }

  Status attach(Layer& layer) {
    auto file = RHEA_TRY(AsyncFile::create(loop_, layer.fd(), options_.allow_io_uring));
    files.push_back(options_.wrap_file ? options_.wrap_file(std::move(file)) : std::move(file));
    layer.set_file(files.back().get());
    return {};
  }

  // What an image says of its backing file may come from a stranger: outside the image's folder it needs the user's
  // word.
  Result<std::unique_ptr<Layer>> open_backing(const qcow2::Header& header, const std::string& path) {
    namespace fs = std::filesystem;
    if (++depth_ > kMaximumChain)
      return fail(ErrorCode::kInvalidArgument, fmt::format("{}: the backing chain is too long or a loop", path));
    const fs::path folder = fs::absolute(fs::path(path)).parent_path().lexically_normal();
    const fs::path name = (folder / header.backing_file).lexically_normal();
    // Where the names lead counts, not how they are written: a link may lead out of the folder.
    std::error_code error;
    const fs::path real_folder = fs::weakly_canonical(folder, error), real_name = fs::weakly_canonical(name, error);
    const auto [end, rest] = std::mismatch(real_folder.begin(), real_folder.end(), real_name.begin(), real_name.end());
    if (error)
      return fail(
          Error::from_errno(error.value(), fmt::format("finding {}, the backing file of {}", name.string(), path)));
    if (end != real_folder.end() && !options_.backing_anywhere && real_name != options_.trusted_backing)
      return fail(
          ErrorCode::kPermissionDenied,
          fmt::format("{}: its backing file {} lies outside its folder; add backing=anywhere if you trust the image",
                      path, name.string()));
    auto opened = open_image_file(name.string(), O_RDONLY);
    if (!opened) return fail(opened.error().context(fmt::format("opening the backing file of {}", path)));
    base::UniqueFd fd = std::move(*opened);
    RHEA_TRY(lock_image(fd.get(), false, name.string()));
    if (header.backing_format == "qcow2") return RHEA_TRY(open_qcow2(std::move(fd), name.string(), false));
    if (header.backing_format != "raw")
      return fail(ErrorCode::kUnsupported,
                  fmt::format("{}: it does not say of which format its backing file is (or '{}', which is not known); "
                              "qemu-img rebase -u -F FORMAT -b FILE sets it",
                              path, header.backing_format));
    const uint64_t size_bytes = RHEA_TRY(size_of_image_file(fd.get(), name.string()));
    auto layer = make_raw_layer(std::move(fd), size_bytes);
    RHEA_TRY(attach(*layer));
    return layer;
  }

  base::EventLoop& loop_;
  const OpenOptions& options_;
  unsigned depth_ = 0;
};

}  // namespace

Result<std::unique_ptr<Disk>> open_qcow2_disk(base::EventLoop& loop, base::UniqueFd fd, const std::string& path,
                                              const OpenOptions& options) {
  ChainOpener opener(loop, options);
  auto image = RHEA_TRY(opener.open_qcow2(std::move(fd), path, !options.read_only));
  return std::make_unique<Qcow2Disk>(std::move(image), std::move(opener.files), options.read_only);
}

}  // namespace rhea::block
