// SPDX-License-Identifier: Apache-2.0
// `rhea image`: making disk images and looking at them.
#pragma once

#include <optional>
#include <string>

namespace CLI {
class App;
}  // namespace CLI

namespace rhea::app {

struct ImageCommand {
  bool create = false;  // otherwise: info
  std::string path, size, format, backing, backing_format;
};

// Adds the command's options to its place in the command line.
void add_image_options(CLI::App& image, ImageCommand& command);
// Does what it asks for; the process's exit status.
int run_image_command(const ImageCommand& command);

}  // namespace rhea::app
