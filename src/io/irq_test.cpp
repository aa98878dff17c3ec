// SPDX-License-Identifier: Apache-2.0
// The interrupt router: wired-OR, order, re-entrance, threads.
#include "io/irq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace rhea::io {
namespace {

using ::testing::ElementsAre;
using Change = std::pair<unsigned, bool>;

struct Recorder final : GsiSink {
  void set_gsi(unsigned gsi, bool level) override { changes.emplace_back(gsi, level); }
  std::vector<Change> changes;
};

class IrqTest : public ::testing::Test {
 protected:
  void SetUp() override { router_.connect_gsi_sink(&sink_); }
  IrqRouter router_;
  Recorder sink_;
};

TEST_F(IrqTest, LinesAreWiredOr) {
  IrqLine a(&router_, 5), b(&router_, 5);
  a.set(true);
  b.set(true);
  a.set(true);
  a.set(false);
  EXPECT_TRUE(router_.gsi_level(5));
  EXPECT_THAT(sink_.changes, ElementsAre(Change(5, true)));
  b.set(false);
  b.set(false);
  EXPECT_THAT(sink_.changes, ElementsAre(Change(5, true), Change(5, false)));
  EXPECT_FALSE(router_.gsi_level(5));
}

TEST_F(IrqTest, PlainDriverIsOneMoreDriver) {
  IrqLine line(&router_, 9);
  router_.set_gsi(9, true);
  router_.set_gsi(9, true);
  line.set(true);
  router_.set_gsi(9, false);
  EXPECT_TRUE(router_.gsi_level(9));
  line.set(false);
  EXPECT_THAT(sink_.changes, ElementsAre(Change(9, true), Change(9, false)));
}

TEST_F(IrqTest, PulsesAreEdges) {
  IrqLine line(&router_, 0);
  line.pulse();
  line.pulse();
  EXPECT_THAT(sink_.changes, ElementsAre(Change(0, true), Change(0, false), Change(0, true), Change(0, false)));
}

TEST_F(IrqTest, UnknownLinesAreIgnored) {
  router_.set_gsi(kGsiCount, true);
  IrqLine(&router_, 1000).set(true);
  IrqLine().set(true);
  EXPECT_TRUE(sink_.changes.empty());
  EXPECT_FALSE(router_.gsi_level(kGsiCount));
}

TEST_F(IrqTest, SinkMayChangeLinesFromWithin) {
  // As a device that drops its line when the interrupt is taken, and a controller that cascades.
  struct Reentrant final : GsiSink {
    void set_gsi(unsigned gsi, bool level) override {
      seen.emplace_back(gsi, level);
      if (gsi == 3 && level) {
        other->set(true);
        own->set(false);
      }
    }
    IrqLine* own = nullptr;
    IrqLine* other = nullptr;
    std::vector<Change> seen;
  } sink;
  router_.connect_gsi_sink(&sink);
  IrqLine three(&router_, 3), four(&router_, 4);
  sink.own = &three;
  sink.other = &four;
  three.set(true);
  EXPECT_THAT(sink.seen, ElementsAre(Change(3, true), Change(4, true), Change(3, false)));
  // The other sink sees each line's changes in the same order.
  EXPECT_THAT(sink_.changes, ElementsAre(Change(3, true), Change(4, true), Change(3, false)));
}

TEST_F(IrqTest, OtherEndsAreConnected) {
  struct Ends final : MsiSink, EoiListener, ExtIntSource, ExtIntSink {
    void deliver_msi(const MsiMessage& message) override { msi = message; }
    void on_eoi(uint8_t v) override { vector = v; }
    bool ext_int_pending() const override { return true; }
    uint8_t acknowledge_ext_int() override { return 0x30; }
    void set_ext_int(bool l) override { level = l; }
    MsiMessage msi;
    uint8_t vector = 0;
    bool level = false;
  } ends;
  router_.send_msi({});
  router_.broadcast_eoi(1);
  router_.set_ext_int(true);
  EXPECT_FALSE(router_.ext_int_pending());
  EXPECT_EQ(router_.acknowledge_ext_int(), 0xff);
  router_.connect_msi_sink(&ends);
  router_.connect_eoi_listener(&ends);
  router_.connect_ext_int_source(&ends);
  router_.connect_ext_int_sink(&ends);
  router_.send_msi({.address = 0xfee00000, .data = 0x41});
  router_.broadcast_eoi(0x55);
  router_.set_ext_int(true);
  EXPECT_EQ(ends.msi.data, 0x41u);
  EXPECT_EQ(ends.vector, 0x55);
  EXPECT_TRUE(ends.level);
  EXPECT_TRUE(router_.ext_int_pending());
  EXPECT_EQ(router_.acknowledge_ext_int(), 0x30);
}

TEST_F(IrqTest, ThreadsAgreeOnTheFinalLevelAndLevelsAlternate) {
  struct Checker final : GsiSink {
    void set_gsi(unsigned, bool level) override {
      EXPECT_FALSE(inside.exchange(true));  // one at a time
      EXPECT_NE(level, last);               // levels alternate
      last = level;
      inside.store(false);
    }
    std::atomic<bool> inside{false};
    bool last = false;
  } checker;
  router_.connect_gsi_sink(&checker);
  constexpr int kThreads = 4;
  std::vector<IrqLine> lines(kThreads, IrqLine(&router_, 10));
  for (bool final_level : {false, true, false}) {
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 2000; ++i) lines[static_cast<size_t>(t)].set(i % 2 == 0);
        lines[static_cast<size_t>(t)].set(final_level && t == 0);
      });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(checker.last, final_level);
    EXPECT_EQ(router_.gsi_level(10), final_level);
  }
}

}  // namespace
}  // namespace rhea::io
