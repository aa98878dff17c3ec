// SPDX-License-Identifier: Apache-2.0
// `rhea image create`, `rhea image convert` and `rhea image info`.
#include "app/image_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <utility>

#include "app/run.h"
#include "base/strings.h"
#include "block/convert.h"
#include "block/image_tools.h"
#include "provision/progress.h"

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

Status convert(const ImageCommand& command) {
  provision::Progress progress(stderr, isatty(STDERR_FILENO) != 0);
  std::string source_format = command.format, target_format = command.target_format;
  if (source_format.empty())
    source_format = RHEA_TRY(block::format_unsaid(command.path, "--format qcow2 or --format raw"));
  if (target_format.empty()) target_format = block::format_by_name(command.target);
  return block::convert_image({.source = command.path,
                               .source_format = source_format,
                               .target = command.target,
                               .target_format = target_format,
                               .backing_anywhere = command.backing_anywhere,
                               .on_progress = [&progress, last = -1](uint64_t done, uint64_t total) mutable {
                                 const auto percent = static_cast<int>(total ? done * 100 / total : 100);
                                 if (std::exchange(last, percent) != percent) progress.show(percent, "copying");
                               }});
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
  make->callback([&command] { command.verb = ImageCommand::Verb::kCreate; });
  CLI::App* copy =
      image.add_subcommand("convert", "Copy a disk into a new image: rhea image convert disk.raw disk.qcow2");
  copy->add_option("FILE", command.path, "The image to read, with its backing files")->required();
  copy->add_option("TARGET", command.target, "The new file; what is zero takes no room in it")->required();
  copy->add_option("--format", command.format, "Format of FILE: raw or qcow2 (default: as its name ends, else raw)")
      ->type_name("FORMAT");
  copy->add_option("--target-format", command.target_format,
                   "Format of TARGET: raw or qcow2 (default: as its name ends, else raw)")
      ->type_name("FORMAT");
  copy->add_flag("--backing-anywhere", command.backing_anywhere, "Backing files may lie outside the image's folder");
  copy->callback([&command] { command.verb = ImageCommand::Verb::kConvert; });
  CLI::App* info = image.add_subcommand("info", "Show what an image is");
  info->add_option("FILE", command.path, "The image")->required();
  info->add_option("--format", command.format, "Format, if the file's own word is not to be taken")
      ->type_name("FORMAT");
}

int run_image_command(const ImageCommand& command) {
  Status status;
  switch (command.verb) {
    case ImageCommand::Verb::kCreate: status = create(command); break;
    case ImageCommand::Verb::kConvert: status = convert(command); break;
    case ImageCommand::Verb::kInfo: status = show(command); break;
  }
  if (status) return 0;
  fmt::print(stderr, "rhea: {}\n", status.error().to_string());
  return status.error().code() == ErrorCode::kInvalidArgument ? kExitUsage : kExitHostError;
}

}  // namespace rhea::app
