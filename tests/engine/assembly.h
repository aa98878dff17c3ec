// SPDX-License-Identifier: Apache-2.0
// The few instructions that the tiny guests are made of, as bytes of 64-bit code.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

namespace rhea::tests::engine {

using Bytes = std::vector<uint8_t>;

inline Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}
inline Bytes& operator+=(Bytes& left, const Bytes& right) { return left = left + right; }

enum Register : uint8_t { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi };

namespace assembly {

inline Bytes little_endian(uint64_t value, unsigned size) {
  Bytes bytes;
  for (unsigned i = 0; i < size; ++i) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
  return bytes;
}

inline constexpr uint8_t kExitPort = 0xf4;

inline Bytes mov(Register to, uint64_t value) {
  return Bytes{0x48, static_cast<uint8_t>(0xb8 + to)} + little_endian(value, 8);
}
inline Bytes mov32(Register to, uint32_t value) {
  return Bytes{static_cast<uint8_t>(0xb8 + to)} + little_endian(value, 4);
}
inline Bytes store_rax(uint64_t address) { return Bytes{0x48, 0xa3} + little_endian(address, 8); }
inline Bytes load_rax(uint64_t address) { return Bytes{0x48, 0xa1} + little_endian(address, 8); }
inline Bytes store_imm32(uint32_t address, uint32_t value) {
  return Bytes{0xc7, 0x04, 0x25} + little_endian(address, 4) + little_endian(value, 4);
}
inline Bytes increment(uint32_t address) {
  return Bytes{0xff, 0x04, 0x25} + little_endian(address, 4);
}  // inc dword [address]
inline Bytes exit() { return {0xe6, kExitPort}; }
inline Bytes nop() { return {0x90}; }
inline Bytes hlt() { return {0xf4}; }
inline Bytes sti() { return {0xfb}; }
inline Bytes cli() { return {0xfa}; }
inline Bytes iretq() { return {0x48, 0xcf}; }
inline Bytes inc_ebx() { return {0xff, 0xc3}; }
inline Bytes spin() { return {0xeb, 0xfe}; }
inline Bytes jump_back(size_t bytes) { return {0xeb, static_cast<uint8_t>(-static_cast<int>(bytes) - 2)}; }
inline Bytes wrmsr(uint32_t index, uint64_t value) {
  return mov32(kRcx, index) + mov32(kRax, static_cast<uint32_t>(value)) +
         mov32(kRdx, static_cast<uint32_t>(value >> 32)) + Bytes{0x0f, 0x30};
}
// RAX: the whole value.
inline Bytes rdmsr(uint32_t index) {
  return mov32(kRcx, index) + Bytes{0x0f, 0x32, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0};
}

}  // namespace assembly
}  // namespace rhea::tests::engine
