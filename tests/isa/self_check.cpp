// SPDX-License-Identifier: Apache-2.0
// One corruption per kind of thing that is compared.
#include "tests/isa/self_check.h"

namespace rhea::tests::isa {
namespace {

constexpr std::string_view kNames[CorruptingExecutor::kKinds] = {"a bit of a GPR",
                                                                 "RSP",
                                                                 "RIP",
                                                                 "CF",
                                                                 "DF",
                                                                 "the vector",
                                                                 "the error code",
                                                                 "FS base",
                                                                 "MXCSR",
                                                                 "an x87 register",
                                                                 "the x87 tags",
                                                                 "XMM",
                                                                 "YMM",
                                                                 "FCW",
                                                                 "a byte of data",
                                                                 "a byte of the stack",
                                                                 "k",
                                                                 "ZMM",
                                                                 "ZMM31"};

void flip(std::byte& byte) { byte ^= std::byte{0x10}; }

}  // namespace

std::string_view CorruptingExecutor::kind_name(unsigned kind) { return kNames[kind]; }

void CorruptingExecutor::run(const Input& input, Output& output) {
  inner_->run(input, output);
  MachineState& state = output.state;
  switch (kind_) {
    case 0: state.gpr[13] ^= uint64_t{1} << (input.mode32 ? 20 : 40); break;
    case 1: state.gpr[4] += 8; break;
    case 2: state.rip += 1; break;
    case 3: state.rflags ^= 1; break;
    case 4: state.rflags ^= 0x400; break;
    case 5: output.outcome.vector ^= 1; break;
    case 6: output.outcome.error_code ^= 2; break;
    case 7: state.fs_base += 1; break;
    case 8: flip(state.xsave[kXsaveMxcsr]); break;
    case 9: flip(state.xsave[kXsaveX87 + 16 * 7 + 9]); break;
    case 10: flip(state.xsave[kXsaveFtw]); break;
    case 11: flip(state.xsave[kXsaveXmm + 16 * 15 + 15]); break;
    case 12: flip(state.xsave[kXsaveYmmHigh]); break;
    case 13: flip(state.xsave[kXsaveFcw]); break;
    case 14: flip(output.image[image_offset(BackingPage::kData1) + 4095]); break;
    case 15: flip(output.image[image_offset(BackingPage::kStack0) + 100]); break;
    case 16: flip(state.xsave[vector_layout().masks]); break;
    case 17: flip(state.xsave[vector_layout().zmm_upper]); break;
    default: flip(state.xsave[vector_layout().high_zmm + kHighZmmBytes - 1]); break;
  }
}

}  // namespace rhea::tests::isa
