// SPDX-License-Identifier: Apache-2.0
// Ports and memory-mapped devices: sizes, values, repeated forms.
#include "tests/engine/guest.h"

namespace rhea::tests::engine {
namespace {

using namespace assembly;
using cpu::StopReason;
using Accesses = std::vector<Guest::Access>;

class IoTest : public EngineTest {};
RHEA_ENGINE_SUITE(IoTest);

Bytes set_dx(uint16_t port) { return mov32(kRdx, port); }
constexpr uint64_t kValue = 0xa1a2a3a4a5a6a7a8;

TEST_P(IoTest, OutOfEverySize) {
  EXPECT_EQ(guest.run(mov(kRax, kValue) + set_dx(Guest::kPorts) + Bytes{0xee, 0x66, 0xef, 0xef}), StopReason::kStopped);
  EXPECT_EQ(guest.ports.writes, (Accesses{{0, 0xa8, 1}, {0, 0xa7a8, 2}, {0, 0xa5a6a7a8, 4}}));
}

TEST_P(IoTest, InOfEverySizeLeavesTheRestAsArchitected) {
  guest.run(mov(kRax, kValue) + set_dx(Guest::kPorts + 3) + Bytes{0xec});
  EXPECT_EQ(guest.gpr(kRax), 0xa1a2a3a4a5a6a711u);
  guest.run(mov(kRax, kValue) + set_dx(Guest::kPorts + 4) + Bytes{0x66, 0xed});
  EXPECT_EQ(guest.gpr(kRax), 0xa1a2a3a4a5a62211u);
  guest.run(mov(kRax, kValue) + set_dx(Guest::kPorts + 8) + Bytes{0xed});
  EXPECT_EQ(guest.gpr(kRax), 0x44332211u);
  EXPECT_EQ(guest.ports.reads, (Accesses{{3, 0, 1}, {4, 0, 2}, {8, 0, 4}}));
}

TEST_P(IoTest, PortsWithoutDeviceReadAsOnes) {
  guest.run(mov32(kRax, 0) + set_dx(0x1234) + Bytes{0xed});
  EXPECT_EQ(guest.gpr(kRax), 0xffffffffu);
  guest.run(mov32(kRax, 0) + Bytes{0xe4, 0x80});
  EXPECT_EQ(guest.gpr(kRax), 0xffu);
}

TEST_P(IoTest, RepeatedOutsSendsEveryElement) {
  guest.put64(Guest::kData, 0x0807060504030201);
  const Bytes set_up = set_dx(Guest::kPorts) + mov(kRsi, Guest::kData);
  guest.run(set_up + mov32(kRcx, 3) + Bytes{0xf3, 0x6e});
  EXPECT_EQ(guest.ports.writes, (Accesses{{0, 1, 1}, {0, 2, 1}, {0, 3, 1}}));
  EXPECT_EQ(guest.gpr(kRcx), 0u);
  EXPECT_EQ(guest.gpr(kRsi), Guest::kData + 3);
  guest.ports.writes.clear();
  guest.run(set_up + mov32(kRcx, 2) + Bytes{0xf3, 0x66, 0x6f});
  guest.run(set_up + mov32(kRcx, 2) + Bytes{0xf3, 0x6f});
  EXPECT_EQ(guest.ports.writes, (Accesses{{0, 0x0201, 2}, {0, 0x0403, 2}, {0, 0x04030201, 4}, {0, 0x08070605, 4}}));
}

TEST_P(IoTest, RepeatedInsStoresEveryElementAcrossPages) {
  for (uint64_t i = 1; i <= 4; ++i) guest.ports.answers.push_back(0x11111111 * i);
  const uint64_t at = Guest::kData + 0xffa;
  guest.run(set_dx(Guest::kPorts) + mov(kRdi, at) + mov32(kRcx, 4) + Bytes{0xf3, 0x6d});
  EXPECT_EQ(guest.get64(at), 0x2222222211111111u);
  EXPECT_EQ(guest.get64(at + 8), 0x4444444433333333u);
  EXPECT_EQ(guest.gpr(kRdi), at + 16);
}

TEST_P(IoTest, InsBackwards) {
  guest.ports.answers = {1, 2, 3};
  guest.run(Bytes{0xfd} + set_dx(Guest::kPorts) + mov(kRdi, Guest::kData + 2) + mov32(kRcx, 3) +
            Bytes{0xf3, 0x6c, 0xfc});
  EXPECT_EQ(guest.get64(Guest::kData) & 0xffffff, 0x010203u);
}

TEST_P(IoTest, DeviceMemoryOfEverySize) {
  guest.run(mov(kRdi, Guest::kMmio) +
            Bytes{0x8a, 0x07, 0x66, 0x8b, 0x5f, 0x02, 0x8b, 0x4f, 0x04, 0x48, 0x8b, 0x57, 0x08});
  EXPECT_EQ(guest.device.reads, (Accesses{{0, 0, 1}, {2, 0, 2}, {4, 0, 4}, {8, 0, 8}}));
  EXPECT_EQ(guest.gpr(kRax) & 0xff, 0x11u);
  EXPECT_EQ(guest.gpr(kRbx) & 0xffff, 0x2211u);
  EXPECT_EQ(guest.gpr(kRcx), 0x44332211u);
  EXPECT_EQ(guest.gpr(kRdx), 0x8877665544332211u);
  guest.run(mov(kRdi, Guest::kMmio) + mov(kRax, kValue) +
            Bytes{0x88, 0x07, 0x66, 0x89, 0x47, 0x02, 0x89, 0x47, 0x04, 0x48, 0x89, 0x47, 0x08});
  EXPECT_EQ(guest.device.writes, (Accesses{{0, 0xa8, 1}, {2, 0xa7a8, 2}, {4, 0xa5a6a7a8, 4}, {8, kValue, 8}}));
}

TEST_P(IoTest, ReadModifyWriteOfADeviceIsOneOfEach) {
  guest.device.answer = 40;
  guest.run(mov(kRdi, Guest::kMmio + 0x10) + mov32(kRax, 2) + Bytes{0x01, 0x07} /* add [rdi],eax */ +
            Bytes{0x48, 0x83, 0x0f, 0x01} /* or qword [rdi],1 */);
  EXPECT_EQ(guest.device.reads, (Accesses{{0x10, 0, 4}, {0x10, 0, 8}}));
  EXPECT_EQ(guest.device.writes, (Accesses{{0x10, 42, 4}, {0x10, 41, 8}}));
}

TEST_P(IoTest, ComparingWithADeviceSetsFlags) {
  guest.device.answer = 7;
  guest.run(mov(kRdi, Guest::kMmio) + mov32(kRax, 7) + Bytes{0x39, 0x07, 0x0f, 0x94, 0xc3} /* sete bl */);
  EXPECT_EQ(guest.gpr(kRbx) & 0xff, 1u);
  EXPECT_TRUE(guest.device.writes.empty());
}

TEST_P(IoTest, VectorAccessesReachADeviceInPieces) {
  guest.run(mov(kRdi, Guest::kMmio) +
            Bytes{0x0f, 0x10, 0x07, 0x0f, 0x11, 0x47, 0x10} /* movups xmm0,[rdi]; movups [rdi+16],xmm0 */);
  EXPECT_EQ(guest.device.reads, (Accesses{{0, 0, 8}, {8, 0, 8}}));
  EXPECT_EQ(guest.device.writes, (Accesses{{0x10, 0x8877665544332211, 8}, {0x18, 0x8877665544332211, 8}}));
}

TEST_P(IoTest, RepeatedStringsToAndFromADevice) {
  guest.put64(Guest::kData, 0x4444333322221111);
  guest.run(mov(kRsi, Guest::kData) + mov(kRdi, Guest::kMmio) + mov32(kRcx, 4) + Bytes{0xf3, 0x66, 0xa5});
  EXPECT_EQ(guest.device.writes, (Accesses{{0, 0x1111, 2}, {2, 0x2222, 2}, {4, 0x3333, 2}, {6, 0x4444, 2}}));
  guest.device.writes.clear();
  guest.run(mov(kRdi, Guest::kMmio + 8) + mov32(kRcx, 2) + mov32(kRax, 0x55) + Bytes{0xf3, 0xab});
  EXPECT_EQ(guest.device.writes, (Accesses{{8, 0x55, 4}, {12, 0x55, 4}}));
  guest.device.reads.clear();
  guest.device.answers = {0x1, 0x2, 0x3};
  guest.run(mov(kRsi, Guest::kMmio) + mov(kRdi, Guest::kData) + mov32(kRcx, 3) + Bytes{0xf3, 0xa4});
  EXPECT_EQ(guest.device.reads, (Accesses{{0, 0, 1}, {1, 0, 1}, {2, 0, 1}}));
  EXPECT_EQ(guest.get64(Guest::kData) & 0xffffff, 0x030201u);
}

TEST_P(IoTest, HolesReadAsOnesAndIgnoreWrites) {
  guest.run(mov(kRdi, 0xc0000000) + Bytes{0x48, 0x89, 0x3f, 0x48, 0x8b, 0x07});
  EXPECT_EQ(guest.gpr(kRax), ~uint64_t{0});
}

TEST_P(IoTest, RomIsReadAndNotWritten) {
  guest.rom()[0x10] = 0x5c;
  guest.run(mov(kRdi, Guest::kRom + 0x10) +
            Bytes{0xc6, 0x07, 0x77, 0x0f, 0xb6, 0x07} /* mov byte [rdi],0x77; movzx eax,byte [rdi] */);
  EXPECT_EQ(guest.gpr(kRax), 0x5cu);
  EXPECT_EQ(guest.rom()[0x10], 0x5c);
}

TEST_P(IoTest, CodeRunsFromRom) {
  const Bytes code = mov32(kRbx, 0x1234) + Bytes{0xff, 0xe0};  // jmp rax
  std::copy(code.begin(), code.end(), guest.rom().begin() + 0x100);
  guest.run(mov(kRax, Guest::kCode + 24) + mov(kRdx, Guest::kRom + 0x100) + Bytes{0xff, 0xe2, 0x90, 0x90});
  EXPECT_EQ(guest.gpr(kRbx), 0x1234u);
}

TEST_P(IoTest, AccessAcrossTheEndOfADevice) {  // two bytes of the device, two of the hole behind it
  guest.device.answer = 0x2211;
  guest.run(mov(kRdi, Guest::kMmio + 0x1ffe) + Bytes{0x8b, 0x07});
  EXPECT_EQ(guest.gpr(kRax), 0xffff2211u & 0xffffffff);
}

// What the device does is seen by the next instruction.
TEST_P(IoTest, ADeviceThatWritesRamIsSeenAtOnce) {
  guest.device.on_write = [&] { guest.put64(Guest::kData, 0x77); };
  guest.run(load_rax(Guest::kData) + mov(kRdi, Guest::kMmio) + Bytes{0x89, 0x07} + load_rax(Guest::kData));
  EXPECT_EQ(guest.gpr(kRax), 0x77u);
}

TEST_P(IoTest, ADeviceThatChangesTheRunningCodeIsSeenAtOnce) {
  const Bytes before = mov(kRdi, Guest::kMmio) + Bytes{0x89, 0x07};
  guest.device.on_write = [&] { guest.put(Guest::kCode + before.size() + 1, {0x99}); };
  guest.run(before + mov32(kRbx, 0x11));
  EXPECT_EQ(guest.gpr(kRbx), 0x99u);
}

}  // namespace
}  // namespace rhea::tests::engine
