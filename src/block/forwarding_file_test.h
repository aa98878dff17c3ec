// SPDX-License-Identifier: Apache-2.0
// For tests: stands in front of a file and passes on all calls; what derives from it looks at some.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "block/async_file.h"

namespace rhea::block {

class ForwardingFile : public AsyncFile {
 public:
  explicit ForwardingFile(std::unique_ptr<AsyncFile> file) : file_(std::move(file)) {}
  void read(uint64_t offset, std::vector<iovec> buffers, Done done) override {
    file_->read(offset, std::move(buffers), std::move(done));
  }
  void write(uint64_t offset, std::vector<iovec> buffers, Done done) override {
    file_->write(offset, std::move(buffers), std::move(done));
  }
  void sync(Done done) override { file_->sync(std::move(done)); }
  void allocate(int mode, uint64_t offset, uint64_t length, Done done) override {
    file_->allocate(mode, offset, length, std::move(done));
  }
  std::string_view engine() const override { return file_->engine(); }

 protected:
  std::unique_ptr<AsyncFile> file_;
};

}  // namespace rhea::block
