// SPDX-License-Identifier: Apache-2.0
// The subcommands of `rhea image`.
#include "app/image_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <functional>
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

Result<std::string> format_of(const ImageCommand& command) {
  if (!command.format.empty()) return command.format;
  return block::format_unsaid(command.path, "--format qcow2 or --format raw");
}

Status resize(const ImageCommand& command) {
  const auto bytes = base::parse_size(command.size);
  if (!bytes)
    return fail(ErrorCode::kInvalidArgument, fmt::format("a size is a number such as 10G, not '{}'", command.size));
  return block::resize_image({.path = command.path,
                              .format = RHEA_TRY(format_of(command)),
                              .size_bytes = *bytes,
                              .shrink = command.shrink,
                              .backing_anywhere = command.backing_anywhere});
}

// A bar that follows work of `total` parts.
std::function<void(uint64_t, uint64_t)> show_on(provision::Progress& progress, std::string what) {
  return [&progress, what = std::move(what), last = -1](uint64_t done, uint64_t total) mutable {
    const auto percent = static_cast<int>(total ? done * 100 / total : 100);
    if (std::exchange(last, percent) != percent) progress.show(percent, what);
  };
}

Status convert(const ImageCommand& command) {
  provision::Progress progress(stderr, isatty(STDERR_FILENO) != 0);
  const std::string source_format = RHEA_TRY(format_of(command));
  std::string target_format = command.target_format;
  if (target_format.empty()) target_format = block::format_by_name(command.target);
  return block::convert_image({.source = command.path,
                               .source_format = source_format,
                               .target = command.target,
                               .target_format = target_format,
                               .compress = command.compress,
                               .backing_anywhere = command.backing_anywhere,
                               .on_progress = show_on(progress, "copying")});
}

// A string as JSON has it. What is no UTF-8 in a file's name passes as it is.
std::string json_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      out += fmt::format("\\{}", c);
    else if (static_cast<unsigned char>(c) < 0x20)
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else
      out += c;
  }
  return out + '"';
}

Status show(const ImageCommand& command) {
  const block::ImageInfo info = RHEA_TRY(block::inspect_image(command.path, command.format));
  if (command.json) {
    fmt::print("{{\"file\": {}, \"format\": {}, \"disk_bytes\": {}, \"file_bytes\": {}", json_text(command.path),
               json_text(info.format), info.disk_bytes, info.file_bytes);
    if (info.format == "qcow2")
      fmt::print(", \"version\": {}, \"cluster_bytes\": {}", info.version, info.cluster_bytes);
    if (!info.backing_file.empty())
      fmt::print(", \"backing_file\": {}, \"backing_format\": {}", json_text(info.backing_file),
                 json_text(info.backing_format));
    fmt::print("}}\n");
    return {};
  }
  fmt::print("file      {}\nformat    {}\ndisk      {} ({} bytes)\non host   {}\n", command.path, info.format,
             base::format_size(info.disk_bytes), info.disk_bytes, base::format_size(info.file_bytes));
  if (info.format == "qcow2")
    fmt::print("version   {}\nclusters  {}\n", info.version, base::format_size(info.cluster_bytes));
  if (!info.backing_file.empty())
    fmt::print("backing   {} ({})\n", info.backing_file,
               info.backing_format.empty() ? "format not said" : info.backing_format);
  return {};
}

void print_json(const ImageCommand& command, const block::qcow2::CheckReport& report) {
  fmt::print(
      "{{\"file\": {}, \"clean\": {}, \"repaired\": {}, \"clusters\": {}, \"compressed_clusters\": {}, \"leaks\": {}, "
      "\"miscounted\": {}, \"corruptions\": {}, \"not_closed\": {}, \"marked_corrupt\": {}, \"end_bytes\": {}, "
      "\"findings\": [",
      json_text(command.path), report.clean(), report.repaired, report.clusters, report.compressed_clusters,
      report.leaks, report.miscounted, report.corruptions, report.dirty, report.marked_corrupt, report.end_bytes);
  for (size_t i = 0; i < report.findings.size(); ++i) fmt::print("{}{}", i ? ", " : "", json_text(report.findings[i]));
  fmt::print("]}}\n");
}

void print_text(const ImageCommand& command, const block::qcow2::CheckReport& report) {
  for (const std::string& finding : report.findings) fmt::print("{}\n", finding);
  const uint64_t all = report.leaks + report.miscounted + report.corruptions;
  if (all > report.findings.size()) fmt::print("... and {} more\n", all - report.findings.size());
  if (report.dirty) fmt::print("the image was not closed: its reference counts are stale\n");
  if (report.marked_corrupt) fmt::print("the image is marked corrupt\n");
  fmt::print("{}: {} clusters of data, {} of them compressed; {} leaked, {} miscounted, {} corruptions: {}\n",
             command.path, report.clusters, report.compressed_clusters, report.leaks, report.miscounted,
             report.corruptions,
             report.clean()       ? "clean"
             : report.repaired    ? "repaired"
             : command.repair     ? "not repaired, because of what is corrupt; convert saves what can be read"
             : report.corruptions ? "corrupt"
                                  : "--repair mends it");
}

Status check(const ImageCommand& command, bool& clean) {
  const std::string format =
      command.format.empty() ? RHEA_TRY(block::inspect_image(command.path, "")).format : command.format;
  if (format != "qcow2")
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} is raw: such an image has nothing to check", command.path));
  block::qcow2::CheckReport report;
  {
    provision::Progress progress(stderr, isatty(STDERR_FILENO) != 0);
    report = RHEA_TRY(block::check_image(
        command.path,
        {.repair = command.repair, .on_progress = isatty(STDERR_FILENO) ? show_on(progress, "checking") : nullptr}));
  }
  command.json ? print_json(command, report) : print_text(command, report);
  clean = report.clean() || report.repaired;
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
  copy->add_flag("--compress", command.compress, "Compress TARGET, a qcow2 image: smaller, and slower to read");
  copy->add_flag("--backing-anywhere", command.backing_anywhere, "Backing files may lie outside the image's folder");
  copy->callback([&command] { command.verb = ImageCommand::Verb::kConvert; });
  CLI::App* info = image.add_subcommand("info", "Show what an image is");
  info->add_option("FILE", command.path, "The image")->required();
  info->add_option("--format", command.format, "Format, if the file's own word is not to be taken")
      ->type_name("FORMAT");
  info->add_flag("--json", command.json, "As JSON");
  CLI::App* check = image.add_subcommand("check", "Check a qcow2 image; the exit status is 1 if it is not in order");
  check->add_option("FILE", command.path, "The image")->required();
  check->add_option("--format", command.format, "Format, if the file's own word is not to be taken")
      ->type_name("FORMAT");
  check->add_flag("--repair", command.repair,
                  "Mend leaked space, wrong reference counts, and an image that was not closed");
  check->add_flag("--json", command.json, "As JSON");
  check->callback([&command] { command.verb = ImageCommand::Verb::kCheck; });
  CLI::App* size = image.add_subcommand("resize", "Make the disk in an image larger: rhea image resize disk.qcow2 20G");
  size->add_option("FILE", command.path, "The image")->required();
  size->add_option("SIZE", command.size, "The disk's new size: 10G, 512M, ...")->required();
  size->add_option("--format", command.format, "Format of FILE: raw or qcow2 (default: as its name ends, else raw)")
      ->type_name("FORMAT");
  size->add_flag("--shrink", command.shrink, "It may become smaller: what lies behind its new end is lost");
  size->add_flag("--backing-anywhere", command.backing_anywhere, "Backing files may lie outside the image's folder");
  size->callback([&command] { command.verb = ImageCommand::Verb::kResize; });
}

int run_image_command(const ImageCommand& command) {
  Status status;
  bool clean = true;
  switch (command.verb) {
    case ImageCommand::Verb::kCreate: status = create(command); break;
    case ImageCommand::Verb::kConvert: status = convert(command); break;
    case ImageCommand::Verb::kInfo: status = show(command); break;
    case ImageCommand::Verb::kResize: status = resize(command); break;
    case ImageCommand::Verb::kCheck: status = check(command, clean); break;
  }
  if (status) return clean ? 0 : kExitHostError;
  fmt::print(stderr, "rhea: {}\n", status.error().to_string());
  return status.error().code() == ErrorCode::kInvalidArgument ? kExitUsage : kExitHostError;
}

}  // namespace rhea::app
