// SPDX-License-Identifier: Apache-2.0
#include "net/capture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>

#include "base/fd.h"
#include "testing/scratch_folder.h"

namespace rhea::net {
namespace {

class Echo final : public Network {
 public:
  explicit Echo(size_t& count) : count_(count) {}
  void set_receiver(Receiver receiver) override { receiver_ = std::move(receiver); }
  void send(std::span<const std::byte> frame, const FrameOffload&) override {
    ++count_;
    if (receiver_) receiver_(frame.first(frame.size() / 2), {});
  }

 private:
  Receiver receiver_;
  size_t& count_;
};

class CaptureTest : public ::testing::Test {
 protected:
  uint32_t word(size_t at) const {
    uint32_t value = 0;
    std::memcpy(&value, file.data() + at, sizeof value);
    return value;
  }
  std::unique_ptr<Network> capture() { return capture_network(std::make_unique<Echo>(sent), *create_capture(path)); }
  void load() { file = *base::read_file(path, 1 << 24); }
  const testing::ScratchFolder scratch;
  const std::string path = scratch.at("frames.pcap");
  std::vector<std::byte> file;
  size_t sent = 0;
};

TEST_F(CaptureTest, BothDirectionsInOrder) {
  auto network = capture();
  size_t received = 0;
  network->set_receiver([&](std::span<const std::byte> frame, const FrameOffload&) {
    received += frame.size();
    return true;
  });
  std::vector<std::byte> frame(100, std::byte{7});
  const auto before = static_cast<uint32_t>(time(nullptr));
  network->send(frame, {});
  network->set_receiver(nullptr);
  network->send(frame, {});
  network.reset();
  load();
  EXPECT_EQ(sent, 2u);
  EXPECT_EQ(received, 50u);
  ASSERT_EQ(file.size(), 24u + (16 + 100) + (16 + 50) + (16 + 100));
  EXPECT_EQ(word(0), 0xa1b23c4du);
  EXPECT_EQ(word(4), 0x00040002u);
  EXPECT_EQ(word(20), 1u);
  EXPECT_GE(word(24), before);
  EXPECT_LT(word(28), 1'000'000'000u);
  EXPECT_EQ(word(32), 100u);
  EXPECT_EQ(word(36), 100u);
  EXPECT_EQ(word(24 + 116 + 8), 50u);
  EXPECT_EQ(file[40], std::byte{7});
}

TEST_F(CaptureTest, ADiskThatIsFullEndsTheCaptureOnly) {
  auto network = capture();
  std::vector<std::byte> frame(1000);
  network->send(frame, {});
  // As a full disk: no file may grow beyond this.
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{.rlim_cur = 1100, .rlim_max = old.rlim_max};
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  for (int i = 0; i < 5; ++i) network->send(frame, {});
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, handler);
  network->send(frame, {});
  network.reset();
  load();
  EXPECT_EQ(sent, 7u);
  EXPECT_LE(file.size(), 1100u);
}

TEST_F(CaptureTest, SeveralNetworksShareAFile) {
  const auto shared = *create_capture(path);
  auto first = capture_network(std::make_unique<Echo>(sent), shared);
  auto second = capture_network(std::make_unique<Echo>(sent), shared);
  first->send(std::vector<std::byte>(60), {});
  second->send(std::vector<std::byte>(70), {});
  load();
  ASSERT_EQ(file.size(), 24u + (16 + 60) + (16 + 70));
  EXPECT_EQ(word(24 + 8), 60u);
  EXPECT_EQ(word(24 + 16 + 60 + 8), 70u);
}

TEST(Capture, AFileThatCannotBe) {
  const auto file = create_capture("/nonexistent/x.pcap");
  ASSERT_FALSE(file);
  EXPECT_THAT(file.error().to_string(), ::testing::HasSubstr("/nonexistent/x.pcap"));
}

}  // namespace
}  // namespace rhea::net
