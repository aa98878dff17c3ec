// SPDX-License-Identifier: Apache-2.0
// Loads a kernel of any supported kind; the kind is found by magic numbers, never by the file's name.
#pragma once

#include "machine/boot/boot_request.h"

namespace rhea::machine {

enum class KernelKind : uint8_t { kUnknown, kBzImage, kMultiboot, kElf };

KernelKind detect_kernel(std::span<const std::byte> file);

// Writes kernel, modules and boot structures to guest memory and returns the boot processor's state.
// Errors are one line for the user: kCorrupt/kUnsupported for the file, kExhausted for what does not fit,
// kInvalidArgument for the command line.
Result<BootResult> load_kernel(const BootRequest& request);

}  // namespace rhea::machine
