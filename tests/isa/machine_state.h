// SPDX-License-Identifier: Apache-2.0
// The user-visible processor state before and after a case, and how the case ended.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tests/isa/arena.h"

namespace rhea::tests::isa {

// Offsets in the standard-format XSAVE area. [SDM-1 13.4] Those of the components of AVX-512 are the processor's
// choice.
inline constexpr size_t kXsaveBytes = 2752;
inline constexpr size_t kXsaveFcw = 0, kXsaveFsw = 2, kXsaveFtw = 4, kXsaveFop = 6, kXsaveFip = 8, kXsaveFdp = 16,
                        kXsaveMxcsr = 24, kXsaveX87 = 32, kXsaveXmm = 160, kXsaveHeader = 512, kXsaveYmmHigh = 576;
inline constexpr size_t kMaskBytes = 64, kZmmUpperBytes = 16 * 32, kHighZmmBytes = 16 * 64;

// What of the vector state the host CPU has, and where.
struct VectorLayout {
  bool avx512 = false;
  size_t masks = 0, zmm_upper = 0, high_zmm = 0;  // k0-7; bits 511:256 of ZMM0-15; ZMM16-31
  size_t bytes = 832;
  uint64_t components = 7;
};
const VectorLayout& vector_layout();

// Plain data: it lives in memory shared between processes.
struct MachineState {
  std::array<uint64_t, 16> gpr;
  uint64_t rip;
  uint64_t rflags;
  uint64_t fs_base, gs_base;
  std::array<uint16_t, 6> selector;  // ES CS SS DS FS GS; the starting ones are the same for all cases
  alignas(64) std::array<std::byte, kXsaveBytes> xsave;

  template <class T>
  T xsave_field(size_t offset) const {
    T value;
    std::memcpy(&value, xsave.data() + offset, sizeof value);
    return value;
  }
  template <class T>
  void set_xsave_field(size_t offset, T value) {
    std::memcpy(xsave.data() + offset, &value, sizeof value);
  }
};

enum class OutcomeKind : uint8_t {
  kException,  // every case ends in one: INT3 after the code, or a fault before
  kTimeout,
  kShutdown,  // the engine's guest died
  kLost,      // the executor could not say (its process died); the case judges nothing
};

struct Outcome {
  OutcomeKind kind;
  uint8_t vector;
  uint32_t error_code;
  uint64_t fault_address;  // CR2, for #PF only

  bool operator==(const Outcome&) const = default;
};

using Image = std::array<std::byte, kImageBytes>;

// All that a case needs to run: input of an executor.
struct Input {
  bool mode32;
  MachineState state;
  alignas(64) Image image;
};
struct Output {
  Outcome outcome;
  MachineState state;
  alignas(64) Image image;
};

}  // namespace rhea::tests::isa
