// SPDX-License-Identifier: Apache-2.0
// `rhea image create` and `rhea image info`.
#include "app/image_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "app/run.h"
#include "base/strings.h"
#include "block/image_tools.h"

namespace rhea::app {
namespace {

Status create(const ImageCommand& command) {
  block::CreateOptions options{
      .path = command.path, .backing_file = command.backing, .backing_format = command.backing_format};
  if (!command.format.empty()) options.format = command.format;
  if (!command.size.empty()) {
    const auto bytes = base::parse_size(command.size);
    if (!bytes)
      return fail(ErrorCode::kInvalidArgument, fmt::format("a size is a number such as 10G, not '{}'", command.size));
    options.size_bytes = *bytes;
  }
  return block::create_image(options);
}

Status show(const ImageCommand& command) {
  const block::ImageInfo info = RHEA_TRY(block::inspect_image(command.path, command.format));
  fmt::print("file      {}\nformat    {}\ndisk      {} ({} bytes)\non host   {}\n", command.path, info.format,
             base::format_size(info.disk_bytes), info.disk_bytes, base::format_size(info.file_bytes));
  if (info.format == "qcow2")
    fmt::print("version   {}\nclusters  {}\n", info.version, base::format_size(info.cluster_bytes));
  if (!info.backing_file.empty())
    fmt::print("backing   {} ({})\n", info.backing_file,
               info.backing_format.empty() ? "format not said" : info.backing_format);
  return {};
}

}  // namespace

void add_image_options(CLI::App& image, ImageCommand& command) {
  image.require_subcommand(1);
  CLI::App* make = image.add_subcommand("create", "Make a new, empty image: rhea image create disk.qcow2 10G");
  make->add_option("FILE", command.path, "The new file")->required();
  make->add_option("SIZE", command.size, "Size of the disk: 10G, 512M, ... (default: the backing file's)");
  make->add_option("--format", command.format, "qcow2 or raw (default qcow2)")->type_name("FORMAT");
  make->add_option("--backing", command.backing, "The new image shows this one's data until it is written to")
      ->type_name("FILE");
  make->add_option("--backing-format", command.backing_format, "Format of the backing file: raw or qcow2")
      ->type_name("FORMAT");
  make->callback([&command] { command.create = true; });
  CLI::App* info = image.add_subcommand("info", "Show what an image is");
  info->add_option("FILE", command.path, "The image")->required();
  info->add_option("--format", command.format, "Format, if the file's own word is not to be taken")
      ->type_name("FORMAT");
}

int run_image_command(const ImageCommand& command) {
  const Status status = command.create ? create(command) : show(command);
  if (status) return 0;
  fmt::print(stderr, "rhea: {}\n", status.error().to_string());
  return status.error().code() == ErrorCode::kInvalidArgument ? kExitUsage : kExitHostError;
}

}  // namespace rhea::app
