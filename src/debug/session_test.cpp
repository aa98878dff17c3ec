// SPDX-License-Identifier: Apache-2.0
// The commands of a gdb session against a fake machine.
#include "debug/session.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cpu/xsave_layout.h"
#include "debug/registers.h"
#include "debug/target_fake.h"

namespace rhea::debug {
namespace {

using ::testing::ElementsAre;
using ::testing::StartsWith;
using Reason = StopEvent::Reason;

class SessionTest : public ::testing::Test {
 protected:
  void connect(unsigned vcpus = 1) {
    target.emplace(vcpus);
    session.emplace(*target);
    session->on_stopped({});
    ask("QStartNoAckMode");
    send("+");
    target->calls.clear();
  }
  void send(std::string_view text) { session->receive({reinterpret_cast<const uint8_t*>(text.data()), text.size()}); }
  std::string take() {
    std::string text(session->output());
    session->take_output(text.size());
    return text;
  }
  // The payload of the one reply, "" if there was none.
  std::string ask(std::string_view payload) {
    send(frame_packet(payload));
    std::string text = take();
    size_t start = text.find('$'), end = text.find('#');
    return start == text.npos ? "(none)" : text.substr(start + 1, end - start - 1);
  }

  std::optional<FakeTarget> target;
  std::optional<Session> session;
};

TEST_F(SessionTest, ConnectionStopsTheMachineAndPacketsWaitForIt) {
  target.emplace();
  session.emplace(*target);
  EXPECT_EQ(target->calls, "stop ");
  send("+" + frame_packet("?"));
  EXPECT_EQ(take(), "");
  session->on_stopped({});
  EXPECT_EQ(take(), "+" + frame_packet("T02thread:1;"));
}

TEST_F(SessionTest, AcksAndRetransmission) {
  target.emplace();
  session.emplace(*target);
  session->on_stopped({});
  send("$?#00");
  EXPECT_EQ(take(), "-");
  send(frame_packet("qC"));
  EXPECT_EQ(take(), "+" + frame_packet("QC1"));
  send("-");
  EXPECT_EQ(take(), frame_packet("QC1"));
}

TEST_F(SessionTest, RegistersRoundTrip) {
  connect();
  FakeVcpu& vcpu = target->fake_vcpu();
  vcpu.state.xcr0 = 7;
  vcpu.state.xsave[512] = std::byte{7};
  for (unsigned i = 0; i < 16; ++i) vcpu.state.gpr[i] = 0x1111111111111111u * i;
  std::string all = ask("g");
  size_t bytes = 0;
  for (unsigned i = 0; i < register_count(); ++i) bytes += register_bytes(i);
  ASSERT_EQ(all.size(), bytes * 2);
  EXPECT_THAT(all, StartsWith("0000000000000000"
                              "3333333333333333"
                              "1111111111111111"));  // rax rbx rcx
  EXPECT_EQ(ask("p10"), "0010000000000000");
  EXPECT_EQ(ask("P0=efcdab8967452301"), "OK");
  EXPECT_EQ(vcpu.state.gpr[cpu::kRax], 0x0123456789abcdefu);
  EXPECT_EQ(ask("P10=0000000000000080"), "E01");  // not canonical
  EXPECT_EQ(ask("G" + all), "OK");
  EXPECT_EQ(ask("g"), all);
  EXPECT_EQ(ask("pffff"), "E01");
  EXPECT_EQ(ask("P0=00"), "E01");
  EXPECT_EQ(ask("G00"), "E01");
  EXPECT_EQ(ask("Gzz"), "E01");
}

TEST_F(SessionTest, EveryRegisterWritesWhatItReads) {
  connect();
  FakeVcpu& vcpu = target->fake_vcpu();
  vcpu.state.xcr0 = 7;
  for (unsigned i = 0; i < register_count(); ++i) {
    const auto before = read_register(vcpu.state, i);
    EXPECT_TRUE(write_register(vcpu.state, i, before)) << i;
    EXPECT_EQ(read_register(vcpu.state, i), before) << i;
  }
}

TEST_F(SessionTest, Avx512RegistersAreDistinct) {
  if (!cpu::host_avx512_layout().present()) GTEST_SKIP() << "the host has no AVX-512";
  EXPECT_THAT(target_description(), testing::HasSubstr("org.gnu.gdb.i386.avx512"));
  cpu::CpuState state;
  const std::vector<uint8_t> ones(32, 1), zeros(32, 0);
  std::vector<unsigned> wide;
  for (unsigned i = 0; i < register_count(); ++i)
    if (register_bytes(i) == 32) wide.push_back(i);
  ASSERT_EQ(wide.size(), 32u);
  EXPECT_TRUE(write_register(state, wide[0], zeros));
  EXPECT_FALSE(write_register(state, wide[0], ones));  // not enabled
  state.xcr0 = 0xe7;
  for (size_t i = 0; i < wide.size(); ++i) {
    std::vector<uint8_t> value(32, static_cast<uint8_t>(i + 1));
    EXPECT_TRUE(write_register(state, wide[i], value));
  }
  for (size_t i = 0; i < wide.size(); ++i)
    EXPECT_EQ(read_register(state, wide[i]), std::vector<uint8_t>(32, static_cast<uint8_t>(i + 1)));
}

TEST_F(SessionTest, SystemRegistersCannotBeChanged) {
  connect();
  auto before = target->fake_vcpu().state;
  unsigned cr0 = register_count() - 6;
  EXPECT_EQ(ask(fmt::format("P{:x}=0000000000000000", cr0)), "E01");
  EXPECT_EQ(target->fake_vcpu().state.cr0, before.cr0);
  EXPECT_EQ(ask("P12=00000000"), "E01");  // cs
}

TEST_F(SessionTest, ReservedBitsStayOut) {
  connect();
  EXPECT_EQ(ask("P11=ffffffff"), "OK");  // eflags
  uint64_t flags = target->fake_vcpu().state.rflags;
  EXPECT_EQ(flags & cpu::rflags::kVm, 0u);
  EXPECT_EQ(flags & ~uint64_t{0x3f7fd7}, 0u);
  EXPECT_EQ(flags & cpu::rflags::kFixed1, cpu::rflags::kFixed1);
}

TEST_F(SessionTest, Memory) {
  connect();
  EXPECT_EQ(ask("M1000,4:01020304"), "OK");
  EXPECT_EQ(ask("m1000,4"), "01020304");
  EXPECT_EQ(ask("mffffffff80001002,2"), "0304");
  EXPECT_EQ(ask(std::string("X1001,3:a}\x03z", 12)), "OK");
  EXPECT_EQ(ask("m1000,5"), "0161237a90");
  EXPECT_EQ(ask("mfffe,8"), "9090");      // RAM ends
  EXPECT_EQ(ask("m10000,1"), "E14");      // mapped, not RAM
  EXPECT_EQ(ask("m900000000,1"), "E14");  // not mapped
  EXPECT_EQ(ask("mffffffffffffffff,10"), "E14");
  EXPECT_EQ(ask("Mffff,2:0102"), "E14");
  EXPECT_EQ(ask("m0,ffffffffffffffff").size(), kMaxPacketBytes);
  EXPECT_EQ(ask("m0,0"), "");
  for (const char* bad :
       {"m", "m0", "m0,", "mx,1", "m0,1,", "M0,2:01", "M0,1:0", "M0,1", "X0,1:", "m00000000000000000,1"})
    EXPECT_EQ(ask(bad), "E01") << bad;
}

TEST_F(SessionTest, Breakpoints) {
  connect(2);
  EXPECT_EQ(ask("Z0,2000,1"), "OK");
  EXPECT_EQ(ask("Z1,1800,1"), "OK");
  EXPECT_THAT(target->fake_vcpu(1).breakpoints, ElementsAre(0x1800, 0x2000));
  EXPECT_EQ(ask("z0,2000,1"), "OK");
  EXPECT_THAT(target->fake_vcpu(0).breakpoints, ElementsAre(0x1800));
  EXPECT_EQ(ask("Z2,2000,1"), "");
  EXPECT_EQ(ask("Z0"), "E01");
  for (unsigned i = 0; i < 5000; ++i) ask(fmt::format("Z0,{:x},1", 0x10000 + i));
  EXPECT_LE(target->fake_vcpu().breakpoints.size(), 4097u);
  EXPECT_EQ(ask("Z0,1,1"), "E1c");
}

TEST_F(SessionTest, RunStopAndInterrupt) {
  connect();
  ask("qSupported:swbreak+;hwbreak+");
  ask("Z0,2000,1");
  EXPECT_EQ(ask("c"), "(none)");
  EXPECT_EQ(target->calls, "resume ");
  send("\x03");
  EXPECT_EQ(target->calls, "resume stop ");
  EXPECT_EQ(take(), "");
  session->on_stopped({});
  EXPECT_EQ(take(), frame_packet("T02thread:1;"));

  EXPECT_EQ(ask("s2000"), "(none)");
  EXPECT_EQ(target->calls, "resume stop step0 ");
  session->on_stopped({.reason = Reason::kDebug});
  EXPECT_EQ(take(), frame_packet("T05thread:1;swbreak:;"));
  EXPECT_EQ(ask("c8000000000000000"), "E01");

  EXPECT_EQ(ask("vCont;c"), "(none)");
  session->on_stopped({.reason = Reason::kShutdown});
  EXPECT_EQ(take(), frame_packet("T0bthread:1;"));
  EXPECT_EQ(ask("c"), "T0bthread:1;");  // the dead stay dead
}

TEST_F(SessionTest, Threads) {
  connect(3);
  EXPECT_EQ(ask("qfThreadInfo"), "m1,2,3");
  EXPECT_EQ(ask("qsThreadInfo"), "l");
  EXPECT_EQ(ask("T3"), "OK");
  EXPECT_EQ(ask("T4"), "E01");
  target->fake_vcpu(2).state.gpr[0] = 0x77;
  EXPECT_EQ(ask("Hg3"), "OK");
  EXPECT_EQ(ask("p0"), "7700000000000000");
  EXPECT_EQ(ask("qC"), "QC3");
  EXPECT_EQ(ask("Hg9"), "E01");
  EXPECT_EQ(ask("vCont?"), "vCont;c;C;s;S;t");
  EXPECT_EQ(ask("vCont;s:2;c"), "(none)");
  EXPECT_EQ(target->calls, "step1 ");
  session->on_stopped({.reason = Reason::kDebug, .vcpu = 1});
  EXPECT_EQ(take(), frame_packet("T05thread:2;"));
  for (const char* bad : {"vCont;", "vCont;x", "vCont;s:9", "vCont;;c"}) EXPECT_EQ(ask(bad), "E01") << bad;
}

TEST_F(SessionTest, TargetDescriptionInPieces) {
  connect();
  std::string xml;
  for (;;) {
    std::string reply = ask(fmt::format("qXfer:features:read:target.xml:{:x},100", xml.size()));
    ASSERT_TRUE(reply[0] == 'm' || reply[0] == 'l');
    xml += reply.substr(1);
    if (reply[0] == 'l') break;
  }
  EXPECT_EQ(xml, target_description());
  EXPECT_EQ(ask("qXfer:features:read:other.xml:0,100"), "E00");
  EXPECT_EQ(ask("qXfer:features:read:target.xml:ffffffffffffffff,ffffffffffffffff"), "l");
}

TEST_F(SessionTest, DetachLetsTheMachineRunWithoutBreakpoints) {
  connect();
  ask("Z0,2000,1");
  EXPECT_EQ(ask("D"), "OK");
  EXPECT_TRUE(session->finished());
  EXPECT_EQ(target->calls, "resume ");
  EXPECT_TRUE(target->fake_vcpu().breakpoints.empty());
}

TEST_F(SessionTest, LostConnectionWhileRunningRemovesBreakpointsWhenStopped) {
  connect();
  ask("Z0,2000,1");
  ask("c");
  session->close();
  EXPECT_TRUE(session->waits_for_stop());
  EXPECT_EQ(target->calls, "resume stop ");
  session->on_stopped({});
  EXPECT_FALSE(session->waits_for_stop());
  EXPECT_EQ(target->calls, "resume stop resume ");
  EXPECT_TRUE(target->fake_vcpu().breakpoints.empty());
}

TEST_F(SessionTest, Kill) {
  connect();
  EXPECT_EQ(ask("vKill;1"), "OK");
  EXPECT_EQ(target->calls, "kill ");
  EXPECT_TRUE(session->finished());
}

TEST_F(SessionTest, OutputIsBounded) {
  connect();
  const std::string request = frame_packet("m0,2000");
  std::string flood;
  for (int i = 0; i < 10000; ++i) flood += request;
  size_t taken = session->receive({reinterpret_cast<const uint8_t*>(flood.data()), flood.size()});
  EXPECT_LT(taken, flood.size());
  EXPECT_LE(session->output().size(), 6 * kMaxPacketBytes);
}

TEST_F(SessionTest, MonitorAndUnknownPackets) {
  connect();
  EXPECT_EQ(ask("qRcmd," + to_hex(std::vector<uint8_t>{'s', 't', 'a', 't', 's'})), "6e6f20737461746973746963730a");
  EXPECT_EQ(ask("qRcmd,0"), "E01");
  for (const char* unknown : {"", "vMustReplyEmpty", "Q", "q", "v", "R00", "qTStatus"})
    EXPECT_EQ(ask(unknown), "") << unknown;
}

}  // namespace
}  // namespace rhea::debug
