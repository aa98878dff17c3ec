// SPDX-License-Identifier: Apache-2.0
// Kernel and RAM disk files: opened once, read again at every reset.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "machine/boot/boot_request.h"

namespace rhea::machine {

struct BootFiles {
  std::vector<std::byte> kernel;
  std::vector<BootModule> modules;
};

// Regular files only: a reset reads them again. `what` names the role in errors.
Result<base::UniqueFd> open_boot_file(const std::string& path, std::string_view what);

// Refuses what cannot fit into the guest's memory before reading it.
Result<BootFiles> read_boot_files(const base::UniqueFd& kernel, const std::string& kernel_path,
                                  std::span<const base::UniqueFd> modules, std::span<const std::string> module_paths,
                                  const memory::GuestMemory& memory);

}  // namespace rhea::machine
