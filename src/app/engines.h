// SPDX-License-Identifier: Apache-2.0
// The engines that are built in. Only the app knows concrete engines.
#pragma once

#include "app/options.h"
#include "machine/pc/machine.h"

namespace rhea::app {

// The factory for the engine that the options name. Errors: kUnsupported if it is not built in.
Result<machine::EngineFactory> select_engine(const RunOptions& options);

}  // namespace rhea::app
