// SPDX-License-Identifier: Apache-2.0
// Checking a qcow2 image: every cluster counted as often as something refers to it, and nothing refers to what is no
// place. Spec: [QCOW2].
//
// Repairing writes the reference counts anew, as what refers to the clusters says, into space behind the file's end,
// and only then lets the header point there: an image whose repair is interrupted is as it was.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "block/qcow2_format.h"

namespace rhea::block::qcow2 {

struct CheckReport {
  uint64_t clusters = 0;             // of the disk, that have data
  uint64_t compressed_clusters = 0;  // of these
  uint64_t leaks = 0;                // clusters counted more often than used: lost space, no danger
  uint64_t miscounted = 0;           // clusters counted less often than used, or marked wrongly as (not) shared
  uint64_t corruptions = 0;          // what no new count mends: entries that point nowhere, tables that cannot be read
  uint64_t end_bytes = 0;            // of the last cluster in use
  bool dirty = false;                // not closed by one who keeps the counts lazily
  bool marked_corrupt = false;
  bool repaired = false;              // the rest of the report tells what was before
  std::vector<std::string> findings;  // the first of them, one line each

  bool clean() const { return leaks == 0 && miscounted == 0 && corruptions == 0 && !dirty && !marked_corrupt; }
};

struct CheckOptions {
  bool repair = false;  // leaks, wrong counts and marks, and the mark of an image that was not closed
  std::function<void(uint64_t done, uint64_t total)> on_progress = {};  // in parts of the whole, on this thread
};

// Blocks. `fd` is open and locked, for writing if it is to be repaired. Where there are corruptions nothing is
// repaired. Errors: the file cannot be read or written; the header's own tables are impossible.
Result<CheckReport> check_image_file(int fd, const Header& header, const CheckOptions& options);

}  // namespace rhea::block::qcow2
