// SPDX-License-Identifier: Apache-2.0
#include "provision/progress.h"

#include <fmt/format.h>

#include <algorithm>

namespace rhea::provision {

std::string Progress::bar(int percent, std::string_view what, int seconds) {
  constexpr int kWidth = 30;
  const int filled = std::clamp(percent, 0, 100) * kWidth / 100;
  return fmt::format("[{:#<{}}{:.<{}}] {:3} % {} ({} s)", "", filled, "", kWidth - filled, std::clamp(percent, 0, 100),
                     what, seconds);
}

void Progress::show(int percent, std::string_view what) {
  const auto elapsed = std::chrono::steady_clock::now() - started_;
  const auto seconds = static_cast<int>(std::chrono::duration_cast<std::chrono::seconds>(elapsed).count());
  percent_ = std::max(percent_, percent);
  if (terminal_) {
    fmt::print(stream_, "\r{}\x1b[K", bar(percent_, what, seconds));
    drawn_ = true;
  } else if (what != what_) {
    fmt::print(stream_, "{:3} % {} ({} s)\n", percent_, what, seconds);
  }
  what_ = what;
  std::fflush(stream_);
}

void Progress::finish() {
  if (drawn_) fmt::print(stream_, "\n");
  std::fflush(stream_);
  drawn_ = false;
}

}  // namespace rhea::provision
