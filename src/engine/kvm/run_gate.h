// SPDX-License-Identifier: Apache-2.0
// Who is in guest mode, and holding them all out of it for a moment.
//
// A change of the memory map takes several calls of KVM; between them a processor could find no memory where there is
// some. So the one that makes the change closes the gate first: the others leave guest mode and wait before they enter
// it again. A processor that changes the map is not in guest mode itself; one that waits for the right to change it is
// not either. So nobody waits in a circle.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

namespace rhea::engine_kvm {

class RunGate {
 public:
  // `interrupt` makes a processor leave guest mode soon, and not enter before it has looked again. Any thread.
  void add(std::function<void()> interrupt);

  // Around guest mode. enter() waits while the gate is closed.
  void enter(unsigned index);
  void leave(unsigned index);

  // Runs `change` while nobody is in guest mode. Not from within guest mode of the calling thread.
  void with_all_out(const std::function<void()>& change);

 private:
  struct Processor {
    std::function<void()> interrupt;
    bool inside = false;
  };
  bool anyone_inside() const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Processor> processors_;
  unsigned closed_ = 0;  // changes under way or waiting
};

}  // namespace rhea::engine_kvm
