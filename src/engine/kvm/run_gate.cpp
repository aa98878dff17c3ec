// SPDX-License-Identifier: Apache-2.0
#include "engine/kvm/run_gate.h"

#include <algorithm>

namespace rhea::engine_kvm {

void RunGate::add(std::function<void()> interrupt) {
  std::lock_guard lock(mutex_);
  processors_.push_back({.interrupt = std::move(interrupt)});
}

bool RunGate::anyone_inside() const {
  return std::ranges::any_of(processors_, [](const Processor& processor) { return processor.inside; });
}

void RunGate::enter(unsigned index) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return closed_ == 0; });
  processors_[index].inside = true;
}

void RunGate::leave(unsigned index) {
  std::lock_guard lock(mutex_);
  processors_[index].inside = false;
  if (closed_) changed_.notify_all();
}

void RunGate::with_all_out(const std::function<void()>& change) {
  std::unique_lock lock(mutex_);
  ++closed_;
  for (const Processor& processor : processors_)
    if (processor.inside) processor.interrupt();
  changed_.wait(lock, [this] { return !anyone_inside(); });
  change();  // with the lock: changes come one after the other
  if (--closed_ == 0) changed_.notify_all();
}

}  // namespace rhea::engine_kvm
