// SPDX-License-Identifier: Apache-2.0
// The kvm engine: cpu::Engine on /dev/kvm.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "cpu/engine.h"

namespace rhea::engine_kvm {

struct KvmOptions {
  std::string device = "/dev/kvm";
};

// Errors: kNotFound, kPermissionDenied, kBusy, kUnsupported.
Result<std::unique_ptr<cpu::Engine>> create_kvm_engine(const cpu::EngineContext& context, const KvmOptions& options);

// The features that guests of this engine do without, for cpu::CpuModel::Options. Errors: as above.
Result<std::vector<std::string>> features_withheld(const KvmOptions& options);

}  // namespace rhea::engine_kvm
