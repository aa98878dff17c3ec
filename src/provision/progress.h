// SPDX-License-Identifier: Apache-2.0
// A progress bar on a terminal, or a line for each stage where there is none.
#pragma once

#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>

namespace rhea::provision {

// Threads: one.
class Progress {
 public:
  // Draws on `stream`; as a bar if `terminal`.
  Progress(FILE* stream, bool terminal) : stream_(stream), terminal_(terminal) {}
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `percent` (0 to 100) is done, and `what` is being done now. The bar never goes back.
  void show(int percent, std::string_view what);
  void finish();  // the line's end, once

  // The bar alone: "[#####.....]  50 % what (12 s)".
  static std::string bar(int percent, std::string_view what, int seconds);

 private:
  FILE* stream_;
  bool terminal_;
  bool drawn_ = false;
  int percent_ = 0;
  std::string what_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

}  // namespace rhea::provision
