// SPDX-License-Identifier: Apache-2.0
// Runs 32-bit code on the host's own processor, in compatibility mode, as the judge of what 64-bit mode lacks.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace rhea::dbt {

class CompatNative {
 public:
  CompatNative() {
    if (!code_segment_usable()) return;
    void* at = mmap(reinterpret_cast<void*>(kBase), kBytes, PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != reinterpret_cast<void*>(kBase)) {
      if (at != MAP_FAILED) munmap(at, kBytes);
      return;
    }
    base_ = static_cast<uint8_t*>(at);
    write_trampoline();
  }
  ~CompatNative() {
    if (base_) munmap(base_, kBytes);
  }
  CompatNative(const CompatNative&) = delete;
  CompatNative& operator=(const CompatNative&) = delete;

  bool available() const { return base_ != nullptr; }

  struct Registers {
    uint32_t eax = 0, ecx = 0, flags = 0;
  };
  // Executes the bytes, which must fall through, with these registers and flags.
  Registers run(std::initializer_list<uint8_t> code, Registers in) {
    uint8_t* at = base_ + kCodeOffset;
    for (uint8_t byte : code) *at++ = byte;
    *at = 0xcb;  // retf
    reinterpret_cast<void (*)(Registers*)>(base_)(&in);
    return in;
  }

 private:
  static constexpr uint64_t kBase = 0x10000000, kBytes = 0x10000;
  static constexpr uint32_t kPointerOffset = 0x4000, kCodeOffset = 0x5000, kStackOffset = 0x8000;
  static constexpr uint16_t kUserCode32 = 0x23;

  // LAR tells whether the kernel gives processes a 32-bit code segment.
  static bool code_segment_usable() {
    uint32_t rights = 0;
    uint8_t ok = 0;
    asm("lar %2, %0\n\tsetz %1" : "=r"(rights), "=r"(ok) : "r"(uint32_t{kUserCode32}) : "cc");
    return ok && (rights & 0x00609800) == 0x00409800;
  }
  void write_trampoline() {
    static constexpr uint8_t kCode[] = {
        0x53, 0x55, 0x48, 0x89, 0xe5,              // push rbx; push rbp; mov rbp, rsp
        0x48, 0x89, 0xfb,                          // mov rbx, rdi
        0x48, 0xc7, 0xc4, 0x00, 0x80, 0x00, 0x10,  // mov rsp, kBase + kStackOffset
        0x8b, 0x03, 0x8b, 0x4b, 0x04,              // mov eax, [rbx]; mov ecx, [rbx+4]
        0x8b, 0x53, 0x08, 0x52, 0x9d,              // mov edx, [rbx+8]; push rdx; popfq
        0xff, 0x1c, 0x25, 0x00, 0x40, 0x00, 0x10,  // call far [kBase + kPointerOffset]
        0x48, 0x89, 0xec, 0x9c, 0x5a,              // mov rsp, rbp; pushfq; pop rdx
        0x89, 0x03, 0x89, 0x4b, 0x04,              // mov [rbx], eax; mov [rbx+4], ecx
        0x89, 0x53, 0x08, 0x5d, 0x5b, 0xc3,        // mov [rbx+8], edx; pop rbp; pop rbx; ret
    };
    std::memcpy(base_, kCode, sizeof(kCode));
    uint32_t offset = kBase + kCodeOffset;
    std::memcpy(base_ + kPointerOffset, &offset, 4);
    std::memcpy(base_ + kPointerOffset + 4, &kUserCode32, 2);
    (void)kStackOffset;
  }

  uint8_t* base_ = nullptr;
};

}  // namespace rhea::dbt
