// SPDX-License-Identifier: Apache-2.0
// The code cache's two mappings.
#include "dbt/runtime/code_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/check.h"

namespace rhea::dbt {

Result<CodeCache> CodeCache::create(uint64_t size_bytes) {
  CodeCache cache;
  const int fd = memfd_create("rhea-code-cache", MFD_CLOEXEC);
  if (fd < 0) return fail(Error::from_errno(errno, "creating the code cache"));
  if (ftruncate(fd, static_cast<off_t>(size_bytes)) != 0) {
    const int saved = errno;
    close(fd);
    return fail(Error::from_errno(saved, "sizing the code cache"));
  }
  void* write = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  void* exec = mmap(nullptr, size_bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
  const int saved = errno;
  close(fd);
  if (write != MAP_FAILED) cache.write_ = static_cast<uint8_t*>(write);
  if (exec != MAP_FAILED) cache.exec_ = static_cast<uint8_t*>(exec);
  cache.size_ = size_bytes;
  if (!cache.write_ || !cache.exec_)
    return fail(Error::from_errno(saved, "mapping the code cache (is executable shared memory forbidden here?)"));
  return cache;
}

CodeCache::CodeCache(CodeCache&& other) noexcept
    : write_(std::exchange(other.write_, nullptr)),
      exec_(std::exchange(other.exec_, nullptr)),
      size_(other.size_),
      used_(other.used_),
      keep_(other.keep_) {}

CodeCache::~CodeCache() {
  if (write_) munmap(write_, size_);
  if (exec_) munmap(exec_, size_);
}

void CodeCache::commit(const uint8_t* end) {
  RHEA_CHECK(end >= position() && end <= write_ + size_);
  used_ = static_cast<uint64_t>(end - write_);
}

}  // namespace rhea::dbt
