// SPDX-License-Identifier: Apache-2.0
// `rhea image`: making disk images, converting, resizing, checking and showing them.
#pragma once

#include <optional>
#include <string>

namespace CLI {
class App;
}  // namespace CLI

namespace rhea::app {

struct ImageCommand {
  enum class Verb { kInfo, kCreate, kConvert, kCheck, kResize } verb = Verb::kInfo;
  std::string path, size, format, backing, backing_format;
  std::string target, target_format;
  bool backing_anywhere = false, json = false, repair = false, compress = false, shrink = false;
};

// Adds the command's options to its place in the command line.
void add_image_options(CLI::App& image, ImageCommand& command);
// Does what it asks for; the process's exit status.
int run_image_command(const ImageCommand& command);

}  // namespace rhea::app
