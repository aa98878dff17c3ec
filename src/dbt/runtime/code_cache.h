// SPDX-License-Identifier: Apache-2.0
// The code cache: one memfd mapped twice, writable and executable, so that no page is ever both.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.h"

namespace rhea::dbt {

// Memory is handed out by a bump pointer and comes back all at once (reset). Used by the vCPU thread only.
class CodeCache {
 public:
  static Result<CodeCache> create(uint64_t size_bytes);
  CodeCache(CodeCache&& other) noexcept;
  CodeCache& operator=(CodeCache&&) = delete;
  ~CodeCache();

  uint8_t* write_base() const { return write_; }
  ptrdiff_t exec_delta() const { return exec_ - write_; }
  uint64_t exec_base() const { return reinterpret_cast<uint64_t>(exec_); }
  bool contains_exec(uint64_t address) const { return address - exec_base() < size_; }
  uint8_t* writable(uint64_t exec_address) const { return write_ + (exec_address - exec_base()); }

  uint8_t* position() const { return write_ + used_; }
  uint64_t room() const { return size_ - used_; }
  uint64_t used() const { return used_; }
  void commit(const uint8_t* end);           // everything before `end` (writable alias) is taken
  void set_reset_point() { keep_ = used_; }  // reset() goes back to here: the thunks stay
  void reset() { used_ = keep_; }

 private:
  CodeCache() = default;
  uint8_t* write_ = nullptr;
  uint8_t* exec_ = nullptr;
  uint64_t size_ = 0, used_ = 0, keep_ = 0;
};

}  // namespace rhea::dbt
