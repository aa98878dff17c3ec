// SPDX-License-Identifier: Apache-2.0
// Writing the map for perf.
#include "dbt/runtime/perf_map.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <iterator>
#include <span>

namespace rhea::dbt {
namespace {
constexpr size_t kPieceBytes = size_t{64} << 10;
}  // namespace

Result<std::unique_ptr<PerfMap>> PerfMap::create(const std::string& path) {
  auto file = base::open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (!file) return fail(file.error().context("cannot write the perf map"));
  return std::unique_ptr<PerfMap>(new PerfMap(std::move(*file)));
}

void PerfMap::add(uint64_t start, uint64_t size_bytes, std::string_view name) {
  fmt::format_to(std::back_inserter(text_), "{:x} {:x} {}\n", start, size_bytes, name);
  if (text_.size() >= kPieceBytes) flush();
}

void PerfMap::add_block(uint64_t start, uint64_t size_bytes, uint64_t rip, uint32_t mode) {
  add(start, size_bytes, fmt::format("guest_{:x}_{:x}", rip, mode));
}

void PerfMap::flush() {
  if (file_) {
    if (!base::write_all(file_.get(), std::as_bytes(std::span(text_)))) file_.reset();
  }
  text_.clear();
}

}  // namespace rhea::dbt
