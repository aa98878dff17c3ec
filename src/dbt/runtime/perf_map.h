// SPDX-License-Identifier: Apache-2.0
// The map by which perf names translated code: lines "start size name", numbers in hexadecimal.
// Spec: Linux tools/perf/Documentation/jit-interface.txt. perf itself looks for /tmp/perf-PID.map.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"

namespace rhea::dbt {

// Written in large pieces and at the end. One thread at a time. A map that cannot be written to the end is left short:
// the guest does not suffer for it. Addresses come again after the code cache was flushed; the later line holds.
class PerfMap {
 public:
  static Result<std::unique_ptr<PerfMap>> create(const std::string& path);
  ~PerfMap() { flush(); }
  PerfMap(const PerfMap&) = delete;
  PerfMap& operator=(const PerfMap&) = delete;

  void add(uint64_t start, uint64_t size_bytes, std::string_view name);
  void add_block(uint64_t start, uint64_t size_bytes, uint64_t rip, uint32_t mode);  // guest_<rip>_<mode>
  void flush();

 private:
  explicit PerfMap(base::UniqueFd file) : file_(std::move(file)) {}
  base::UniqueFd file_;
  std::string text_;
};

}  // namespace rhea::dbt
