// SPDX-License-Identifier: Apache-2.0
// FXSAVE, XSAVE and x87 environment instructions against the host's own on the same state.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "dbt/system/expect.h"
#include "dbt/system/machine_fake.h"
#include "dbt/system/xsave_image.h"

namespace rhea::dbt {
namespace {

constexpr uint64_t kArea = 0x100000;
constexpr unsigned kAreaBytes = 1024;
constexpr uint64_t kComponents = 7;

struct alignas(64) Buffer {
  std::byte bytes[4096] = {};
};

// Runs one host instruction on an area with the vector state of `image` live, and returns the state after it.
template <class Body>
void on_host(Buffer& image, Body body) {
  static thread_local Buffer saved;
  asm volatile("xsave64 %0" : "+m"(saved) : "a"(7), "d"(0) : "memory");
  asm volatile("xrstor64 %0" : : "m"(image), "a"(7), "d"(0) : "memory");
  body();
  asm volatile("xsave64 %0" : "+m"(image) : "a"(7), "d"(0) : "memory");
  asm volatile("xrstor64 %0" : : "m"(saved), "a"(7), "d"(0) : "memory");
}

// "" if the ranges agree, else where they do not.
std::string difference(const Buffer& got, const Buffer& expected, unsigned from, unsigned to) {
  for (unsigned i = from; i < to; ++i)
    if (got.bytes[i] != expected.bytes[i])
      return "byte " + std::to_string(i) + ": " + std::to_string(int(got.bytes[i])) + ", the host has " +
             std::to_string(int(expected.bytes[i]));
  return "";
}

// XINUSE of the host's SSE state changes when its kernel switches contexts between two instructions of ours:
// only a difference that stays counts.
template <class Body>
void expect_same(const std::string& what, Body body) {
  std::string found;
  for (int attempt = 0; attempt < 5; ++attempt) {
    found = body();
    if (found.empty()) return;
  }
  ADD_FAILURE() << what << ": " << found;
}

class StateTest : public ::testing::Test {
 protected:
  FakeMachine machine;
  cpu::CpuState& state = machine.state;
  std::mt19937_64 random{7};

  void SetUp() override {
    if ((machine.context.cpu_model->supported_xcr0() & kComponents) != kComponents)
      GTEST_SKIP() << "no AVX on this host";
    machine.enter_long_mode(0);
    state.cr4 |= cpu::cr4::kOsxsave;
    state.xcr0 = kComponents;
    state.gpr[cpu::kRdi] = kArea;
  }

  // A random live state; components not in `in_use` have their initial values.
  Buffer random_image(uint64_t in_use) {
    Buffer image;
    auto* bytes = image.bytes;
    store_host(bytes + kFcw, kDefaultFcw, 2);
    store_host(bytes + kMxcsr, random() % 2 ? 0x1fa0 : kDefaultMxcsr, 4);  // also where SSE state is not in use
    if (in_use & kX87Component) {
      store_host(bytes + kFcw, 0x27f, 2);
      store_host(bytes + kFsw, (random() & 0x4700) | (random() % 8) << 11, 2);
      store_host(bytes + kFtw, random() & 0xff, 1);
      for (unsigned i = 0; i < 8; ++i) {
        static constexpr uint64_t kSignificands[] = {0, 0x8000000000000000, 0xc000000000000001, 0x4000000000000000};
        static constexpr uint16_t kExponents[] = {0, 0x3fff, 0x7fff, 0xc001};
        store_host(bytes + kSt0 + 16 * i, kSignificands[random() % 4], 8);
        store_host(bytes + kSt0 + 16 * i + 8, kExponents[random() % 4], 2);
      }
    }
    if (in_use & kSseComponent)
      for (unsigned i = 0; i < 256; i += 8) store_host(bytes + kXmm0 + i, random(), 8);
    if (in_use & kAvxComponent)
      for (unsigned i = 0; i < 256; i += 8) store_host(bytes + kExtendedStart + i, random(), 8);
    store_host(bytes + kXstateBv, in_use, 8);
    on_host(image, [] {});  // as save_vectors() would leave it: MXCSR_MASK, summary bits
    return image;
  }
  void set_live(const Buffer& image) { std::memcpy(state.xsave.data(), image.bytes, sizeof(image.bytes)); }
  void fill_area(uint8_t byte) { std::memset(machine.host(kArea), byte, kAreaBytes); }
  Buffer area() {
    Buffer buffer;
    std::memcpy(buffer.bytes, machine.host(kArea), kAreaBytes);
    return buffer;
  }
  // FIP, FDP and FOP of the host are not the guest's; FCS and FDS read as zero.
  static void clear_pointers(Buffer& buffer) { std::memset(buffer.bytes + kFop, 0, kMxcsr - kFop); }
  void set_mask(uint64_t mask) {
    state.gpr[cpu::kRax] = mask & 0xffffffff;
    state.gpr[cpu::kRdx] = mask >> 32;
  }
};

enum class Save { kXsave, kXsaveopt, kXsavec, kFxsave };

TEST_F(StateTest, SavesAsTheHostDoes) {
  bool has_xsavec = machine.context.cpu_model->cpuid(0xd, 1).eax & 2;
  auto save_both = [&](Save kind, const Buffer& start, uint64_t mask, uint64_t old_bv) {
    Buffer image = start, expected;
    set_live(start);
    fill_area(0xcc);
    std::memset(expected.bytes, 0xcc, kAreaBytes);
    store_host(expected.bytes + kXstateBv, old_bv, 8);
    machine.write(kArea + kXstateBv, old_bv, 8);
    set_mask(mask);
    on_host(image, [&] {
      switch (kind) {
        case Save::kXsave: asm volatile("xsave64 %0" : "+m"(expected) : "a"(mask), "d"(0) : "memory"); break;
        case Save::kXsaveopt: asm volatile("xsaveopt64 %0" : "+m"(expected) : "a"(mask), "d"(0) : "memory"); break;
        case Save::kXsavec: asm volatile("xsavec64 %0" : "+m"(expected) : "a"(mask), "d"(0) : "memory"); break;
        case Save::kFxsave: asm volatile("fxsave64 %0" : "+m"(expected) : : "memory"); break;
      }
    });
    switch (kind) {
      case Save::kXsave: EXPECT_RUNS(machine.run({0x48, 0x0f, 0xae, 0x27})); break;
      case Save::kXsaveopt: EXPECT_RUNS(machine.run({0x48, 0x0f, 0xae, 0x37})); break;
      case Save::kXsavec: EXPECT_RUNS(machine.run({0x48, 0x0f, 0xc7, 0x27})); break;
      case Save::kFxsave: EXPECT_RUNS(machine.run({0x48, 0x0f, 0xae, 0x07})); break;
    }
    Buffer got = area();
    // The host's x87 pointers differ from the guest's; where x87 state was not written, nothing may be.
    if (load_host(expected.bytes, 2) != 0xcccc) clear_pointers(expected), clear_pointers(got);
    return difference(got, expected, 0, kAreaBytes);
  };
  for (unsigned round = 0; round < 2000; ++round)
    for (Save kind : {Save::kXsave, Save::kXsaveopt, Save::kXsavec, Save::kFxsave}) {
      if (kind == Save::kXsavec && !has_xsavec) continue;
      uint64_t in_use = random() % 8, mask = random() % 16, old_bv = random();
      Buffer start = random_image(in_use);
      expect_same(
          "kind " + std::to_string(int(kind)) + " in use " + std::to_string(in_use) + " mask " + std::to_string(mask),
          [&] { return save_both(kind, start, mask, old_bv); });
    }
}

TEST_F(StateTest, RestoresAsTheHostDoes) {
  bool has_xsavec = machine.context.cpu_model->cpuid(0xd, 1).eax & 2;
  auto restore_both = [&](const Buffer& start, const Buffer& source, uint64_t mask, bool fx) {
    Buffer live = start;
    std::memcpy(machine.host(kArea), source.bytes, kAreaBytes);
    set_live(start);
    set_mask(mask);
    on_host(live, [&] {
      if (fx)
        asm volatile("fxrstor64 %0" : : "m"(source) : "memory");
      else
        asm volatile("xrstor64 %0" : : "m"(source), "a"(mask), "d"(0) : "memory");
    });
    EXPECT_RUNS(fx ? machine.run({0x48, 0x0f, 0xae, 0x0f}) : machine.run({0x48, 0x0f, 0xae, 0x2f}));
    // Let the host load our image: the live registers must be the same, XINUSE too.
    Buffer ours;
    std::memcpy(ours.bytes, state.xsave.data(), sizeof(ours.bytes));
    on_host(ours, [] {});
    clear_pointers(ours), clear_pointers(live);
    return difference(ours, live, 0, 832);
  };
  for (unsigned round = 0; round < 3000; ++round) {
    uint64_t in_use = random() % 8, mask = random() % 8, bv = random() % 8;
    Buffer start = random_image(in_use), stored = random_image(7), source;
    bool fx = random() % 4 == 0, compact = !fx && has_xsavec && random() % 2;
    store_host(stored.bytes + kMxcsr, random() % 2 ? 0x1f80 : 0x9fc0, 4);
    std::memcpy(source.bytes, stored.bytes, kLegacyBytes);
    store_host(source.bytes + kXstateBv, bv, 8);
    uint64_t layout = compact ? bv | random() % 8 | kCompacted : 0;
    store_host(source.bytes + kXcompBv, layout, 8);
    if (!compact || (layout & 4)) std::memcpy(source.bytes + kExtendedStart, stored.bytes + kExtendedStart, 256);
    clear_pointers(source);
    expect_same("fx " + std::to_string(fx) + " compact " + std::to_string(compact) + " mask " + std::to_string(mask) +
                    " bv " + std::to_string(bv) + " in use " + std::to_string(in_use),
                [&] { return restore_both(start, source, mask, fx); });
  }
}

TEST_F(StateTest, HeaderChecks) {
  struct Case {
    const char* what;
    unsigned offset;
    uint64_t value;
    bool compact;
  };
  const Case cases[] = {
      {"XSTATE_BV beyond XCR0", kXstateBv, 8, false},
      {"XCOMP_BV bits", kXcompBv, 1, false},
      {"third quadword", kXcompBv + 8, 1, false},
      {"XCOMP_BV beyond XCR0", kXcompBv, kCompacted | 0x17, true},
      {"XSTATE_BV not in XCOMP_BV", kXcompBv, kCompacted | 3, true},
      {"XSTATE_BV bit 63", kXstateBv, kCompacted, true},
      {"end of header", kXstateBv + 56, 1, true},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    if (c.compact && !(machine.context.cpu_model->cpuid(0xd, 1).eax & 2)) continue;
    fill_area(0);
    Buffer live = random_image(7);
    set_live(live);
    machine.write(kArea + kMxcsr, kDefaultMxcsr, 4);
    machine.write(kArea + kXstateBv, 7, 8);
    if (c.compact) machine.write(kArea + kXcompBv, kCompacted | 7, 8);
    machine.write(kArea + c.offset, c.value, 8);
    set_mask(7);
    EXPECT_RAISES(machine.run({0x48, 0x0f, 0xae, 0x2f}), kGeneralProtection, 0);
    EXPECT_EQ(std::memcmp(state.xsave.data(), live.bytes, 832), 0);
  }
  fill_area(0);
  machine.write(kArea + kMxcsr, 0x10000, 4);
  EXPECT_RAISES(machine.run({0x48, 0x0f, 0xae, 0x2f}), kGeneralProtection, 0);
  EXPECT_RAISES(machine.run({0x48, 0x0f, 0xae, 0x0f}), kGeneralProtection, 0);
  state.gpr[cpu::kRdi] = kArea + 32;
  EXPECT_RAISES(machine.run({0x48, 0x0f, 0xae, 0x27}), kGeneralProtection, 0);
  EXPECT_RUNS(machine.run({0x48, 0x0f, 0xae, 0x07}));
  state.gpr[cpu::kRdi] = kArea + 8;
  EXPECT_RAISES(machine.run({0x48, 0x0f, 0xae, 0x07}), kGeneralProtection, 0);
}

TEST_F(StateTest, AvailabilityChecks) {
  auto vector = [&](std::initializer_list<uint8_t> bytes) {
    auto result = machine.run(bytes);
    return result ? -1 : int{result.error().vector};
  };
  state.cr0 |= cpu::cr0::kTs;
  EXPECT_EQ(vector({0x48, 0x0f, 0xae, 0x27}), kDeviceNotAvailable);
  EXPECT_EQ(vector({0x0f, 0xae, 0x07}), kDeviceNotAvailable);
  EXPECT_EQ(vector({0xd9, 0x37}), kDeviceNotAvailable);
  state.cr0 &= ~cpu::cr0::kTs;
  state.cr4 &= ~cpu::cr4::kOsxsave;
  EXPECT_EQ(vector({0x48, 0x0f, 0xae, 0x27}), kInvalidOpcode);
  state.cr4 |= cpu::cr4::kOsxsave;
  machine.set_cpl(3);
  state.gpr[cpu::kRdi] = kArea;
  EXPECT_EQ(vector({0x48, 0x0f, 0xc7, 0x2f}), kGeneralProtection);
}

TEST_F(StateTest, EnvironmentsAsTheHostDoes) {
  for (unsigned round = 0; round < 2000; ++round)
    for (bool narrow : {false, true}) {
      Buffer image = random_image(kX87Component), expected;
      set_live(image);
      machine.context.fpu_fip = machine.context.fpu_fdp = 0;
      machine.context.fpu_fop = 0;
      fill_area(0);
      bool save = random() % 2;
      on_host(image, [&] {
        if (save && narrow)
          asm volatile(".byte 0x66\n\tfnsave %0" : "+m"(expected) : : "memory");
        else if (save)
          asm volatile("fnsave %0" : "+m"(expected) : : "memory");
        else if (narrow)
          asm volatile(".byte 0x66\n\tfnstenv %0" : "+m"(expected) : : "memory");
        else
          asm volatile("fnstenv %0" : "+m"(expected) : : "memory");
      });
      if (save)
        EXPECT_RUNS(narrow ? machine.run({0x66, 0xdd, 0x37}) : machine.run({0xdd, 0x37}));
      else
        EXPECT_RUNS(narrow ? machine.run({0x66, 0xd9, 0x37}) : machine.run({0xd9, 0x37}));
      Buffer got = area();
      // Host pointers again: FIP to FDS.
      unsigned from = narrow ? 6 : 12, to = narrow ? 14 : 28;
      for (unsigned i = from; i < to; ++i) expected.bytes[i] = got.bytes[i];
      SCOPED_TRACE(::testing::Message() << "round " << round << " narrow " << narrow << " save " << save);
      for (unsigned i = 0; i < 128; ++i) ASSERT_EQ(int(got.bytes[i]), int(expected.bytes[i])) << "byte " << i;
      // And the state that is left, also after loading it back.
      Buffer ours;
      std::memcpy(ours.bytes, state.xsave.data(), sizeof(ours.bytes));
      on_host(ours, [] {});
      clear_pointers(ours), clear_pointers(image);
      for (unsigned i = 0; i < 160; ++i) ASSERT_EQ(int(ours.bytes[i]), int(image.bytes[i])) << "byte " << i;
      on_host(image, [&] {
        if (save && narrow)
          asm volatile(".byte 0x66\n\tfrstor %0" : : "m"(got) : "memory");
        else if (save)
          asm volatile("frstor %0" : : "m"(got) : "memory");
        else if (narrow)
          asm volatile(".byte 0x66\n\tfldenv %0" : : "m"(got) : "memory");
        else
          asm volatile("fldenv %0" : : "m"(got) : "memory");
      });
      if (save)
        EXPECT_RUNS(narrow ? machine.run({0x66, 0xdd, 0x27}) : machine.run({0xdd, 0x27}));
      else
        EXPECT_RUNS(narrow ? machine.run({0x66, 0xd9, 0x27}) : machine.run({0xd9, 0x27}));
      std::memcpy(ours.bytes, state.xsave.data(), sizeof(ours.bytes));
      on_host(ours, [] {});
      clear_pointers(ours), clear_pointers(image);
      for (unsigned i = 0; i < 160; ++i) ASSERT_EQ(int(ours.bytes[i]), int(image.bytes[i])) << "byte " << i;
    }
}

TEST_F(StateTest, GuestPointersAreKept) {
  Context& context = machine.context;
  set_live(random_image(7));
  context.fpu_fip = 0xffffffff81234567;
  context.fpu_fdp = 0x7fff12345678;
  context.fpu_fop = 0x5d9;
  fill_area(0);
  EXPECT_RUNS(machine.run({0x48, 0x0f, 0xae, 0x07}));  // fxsave64
  EXPECT_EQ(machine.read(kArea + kFip, 8), 0xffffffff81234567u);
  EXPECT_EQ(machine.read(kArea + kFdp, 8), 0x7fff12345678u);
  EXPECT_EQ(machine.read(kArea + kFop, 2), 0x5d9u);
  EXPECT_RUNS(machine.run({0x0f, 0xae, 0x07}));  // fxsave: 32 bits, selectors zero
  EXPECT_EQ(machine.read(kArea + kFip, 8), 0x81234567u);
  context.fpu_fip = context.fpu_fdp = context.fpu_fop = 0;
  EXPECT_RUNS(machine.run({0x0f, 0xae, 0x0f}));
  EXPECT_EQ(context.fpu_fip, 0x81234567u);
  EXPECT_EQ(context.fpu_fop, 0x5d9u);
  EXPECT_RUNS(machine.run({0xdb, 0xe3}));  // fninit
  EXPECT_EQ(context.fpu_fip, 0u);
  EXPECT_EQ(load_host(&state.xsave[kFcw], 2), kDefaultFcw);
  // 16-bit real-mode form: the opcode shares a word with the address.
  machine.enter_real_mode();
  context.fpu_fip = 0x12345;
  context.fpu_fdp = 0x6789a;
  context.fpu_fop = 0x123;
  state.gpr[cpu::kRbx] = 0x8000;
  EXPECT_RUNS(machine.run({0xd9, 0x37}));
  EXPECT_EQ(machine.read(0x8006, 2), 0x2345u);
  EXPECT_EQ(machine.read(0x8008, 2), 0x1123u);
  EXPECT_EQ(machine.read(0x800a, 2), 0x789au);
  EXPECT_EQ(machine.read(0x800c, 2), 0x6000u);
}

}  // namespace
}  // namespace rhea::dbt
