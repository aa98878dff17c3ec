// SPDX-License-Identifier: Apache-2.0
#include "net/capture.h"

#include <fcntl.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "base/fd.h"

namespace rhea::net {
namespace {

constexpr uint32_t kMagicNanoseconds = 0xa1b23c4d;  // in the writer's byte order, which readers tell from it
constexpr uint32_t kSnapBytes = 262144, kEthernet = 1;

}  // namespace

// One record, or the file's head, in one write: what is cut short by a crash is the last record only.
class CaptureFile {
 public:
  explicit CaptureFile(base::UniqueFd fd) : fd_(std::move(fd)) {}

  Status write_head() {
    // Magic, version 2.4, two words that are zero, longest frame, link type.
    const std::array<uint32_t, 6> head = {kMagicNanoseconds, 2 | 4 << 16, 0, 0, kSnapBytes, kEthernet};
    static_assert(std::endian::native == std::endian::little);  // for the two halves of the version
    return base::write_all(fd_.get(), std::as_bytes(std::span(head)));
  }

  // Any thread.
  void note(std::span<const std::byte> frame) {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    const auto length = static_cast<uint32_t>(std::min<size_t>(frame.size(), kSnapBytes));
    const std::array<uint32_t, 4> head = {static_cast<uint32_t>(now.tv_sec), static_cast<uint32_t>(now.tv_nsec), length,
                                          static_cast<uint32_t>(frame.size())};
    std::lock_guard lock(mutex_);
    if (ended_) return;
    record_.resize(sizeof head + length);
    std::memcpy(record_.data(), head.data(), sizeof head);
    std::memcpy(record_.data() + sizeof head, frame.data(), length);
    ended_ = !base::write_all(fd_.get(), record_);
  }

 private:
  base::UniqueFd fd_;
  std::mutex mutex_;
  bool ended_ = false;
  std::vector<std::byte> record_;
};

namespace {

class CapturedNetwork final : public Network {
 public:
  CapturedNetwork(std::unique_ptr<Network> network, std::shared_ptr<CaptureFile> file)
      : file_(std::move(file)), network_(std::move(network)) {}

  Offloads sends() const override { return network_->sends(); }
  void set_receives(const Offloads& taken) override { network_->set_receives(taken); }
  void receive_more() override { network_->receive_more(); }

  void set_receiver(Receiver receiver) override {
    if (!receiver) return network_->set_receiver(nullptr);
    network_->set_receiver([file = file_.get(), receiver = std::move(receiver)](std::span<const std::byte> frame,
                                                                                const FrameOffload& offload) {
      file->note(frame);
      return receiver(frame, offload);
    });
  }

  void send(std::span<const std::byte> frame, const FrameOffload& offload) override {
    file_->note(frame);
    network_->send(frame, offload);
  }

 private:
  std::shared_ptr<CaptureFile> file_;  // outlives the network, whose thread writes to it
  std::unique_ptr<Network> network_;
};

}  // namespace

Result<std::shared_ptr<CaptureFile>> create_capture(const std::string& path) {
  auto file = std::make_shared<CaptureFile>(RHEA_TRY(base::open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600)));
  if (const Status head = file->write_head(); !head)
    return fail(head.error().context("writing the network capture " + path));
  return file;
}

std::unique_ptr<Network> capture_network(std::unique_ptr<Network> network, std::shared_ptr<CaptureFile> file) {
  return std::make_unique<CapturedNetwork>(std::move(network), std::move(file));
}

}  // namespace rhea::net
