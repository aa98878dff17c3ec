// SPDX-License-Identifier: Apache-2.0
// PS/2 keyboard and mouse command sets. Spec: [PS/2] keyboard and auxiliary device.
#include "devices/input/i8042/ps2_device.h"

#include <algorithm>

#include "devices/input/i8042/i8042_regs.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices {

using namespace i8042_regs;

namespace {

enum KeyboardCommand : uint8_t {
  kSetLeds = 0xed,
  kEcho = 0xee,
  kScanSet = 0xf0,
  kIdentify = 0xf2,
  kSetRate = 0xf3,
  kEnable = 0xf4,
  kDisable = 0xf5,
  kSetDefaults = 0xf6,
  kAllTypematic = 0xf7,  // 0xf7-0xfa: set 3 key types, accepted
  kAllKeys = 0xfa,
  kResendLast = 0xfe,
  kReset = 0xff,
};
enum MouseCommand : uint8_t {
  kScaling1 = 0xe6,
  kScaling2 = 0xe7,
  kSetResolution = 0xe8,
  kStatusRequest = 0xe9,
  kStreamMode = 0xea,
  kReadData = 0xeb,
  kResetWrap = 0xec,
  kWrapMode = 0xee,
  kRemoteMode = 0xf0,
};
constexpr int kFarthest = 1 << 16;  // movement kept for later reports

}  // namespace

bool Ps2Queue::push(std::span<const uint8_t> bytes) {
  if (bytes.size() > kCapacity - count_) return false;
  for (const uint8_t byte : bytes) bytes_[(head_ + count_++) % kCapacity] = byte;
  return true;
}

std::optional<uint8_t> Ps2Queue::pop() {
  if (count_ == 0) return std::nullopt;
  const uint8_t byte = bytes_[head_];
  head_ = (head_ + 1) % kCapacity;
  --count_;
  return byte;
}

void Ps2Queue::save(state::StateWriter& writer) const {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < count_; ++i) bytes.push_back(bytes_[(head_ + i) % kCapacity]);
  writer.field("queue", bytes);
}

Status Ps2Queue::load(state::StateReader& reader) {
  std::vector<uint8_t> bytes;
  reader.field("queue", bytes);
  reader.validate(bytes.size() <= kCapacity, "has an overfull queue");
  RHEA_TRY(reader.status());
  clear();
  push(bytes);
  return {};
}

void Ps2Keyboard::set_defaults() {
  leds_ = 0;
  scan_set_ = 2;
  rate_ = 0x2b;
  scanning_ = true;
}

void Ps2Keyboard::reset() {
  set_defaults();
  pending_command_ = 0;
  queue_.clear();
}

void Ps2Keyboard::write(uint8_t value) {
  if (pending_command_ != 0 && value < kSetLeds) {
    const uint8_t command = pending_command_;
    pending_command_ = 0;
    if (command == kSetLeds) leds_ = value & 7;
    if (command == kSetRate) rate_ = value & 0x7f;
    if (command == kScanSet) {
      if (value > 3) {
        queue_.push(kResend);
        return;
      }
      queue_.push(kAck);
      if (value == 0)
        queue_.push(scan_set_);
      else
        scan_set_ = value;
      return;
    }
    queue_.push(kAck);
    return;
  }
  pending_command_ = 0;  // a command instead of the argument abandons the first one
  switch (value) {
    case kSetLeds:
    case kSetRate:
    case kScanSet:
      pending_command_ = value;
      queue_.push(kAck);
      break;
    case kEcho: queue_.push(kEcho); break;
    case kIdentify: {
      constexpr std::array<uint8_t, 3> kMf2 = {kAck, 0xab, 0x83};
      queue_.push(kMf2);
      break;
    }
    case kEnable:
      queue_.clear();
      scanning_ = true;
      queue_.push(kAck);
      break;
    case kDisable:
    case kSetDefaults:
      set_defaults();
      scanning_ = value == kSetDefaults;
      queue_.push(kAck);
      break;
    case kResendLast: queue_.push(last_sent_); return;
    case kReset: {
      reset();
      constexpr std::array<uint8_t, 2> kPassed = {kAck, kDeviceTestPassed};
      queue_.push(kPassed);
      break;
    }
    default: queue_.push(value >= kAllTypematic && value <= kAllKeys ? kAck : kResend); break;
  }
  last_sent_ = kAck;
}

void Ps2Keyboard::key(std::span<const uint8_t> scan_code) {
  if (scanning_) queue_.push(scan_code);
}

void Ps2Keyboard::save(state::StateWriter& writer) const {
  queue_.save(writer);
  writer.field("pending_command", pending_command_);
  writer.field("leds", leds_);
  writer.field("scan_set", scan_set_);
  writer.field("rate", rate_);
  writer.field("last_sent", last_sent_);
  writer.field("scanning", scanning_);
}

Status Ps2Keyboard::load(state::StateReader& reader) {
  RHEA_TRY(queue_.load(reader));
  reader.field("pending_command", pending_command_);
  reader.field("leds", leds_);
  reader.field("scan_set", scan_set_);
  reader.field("rate", rate_);
  reader.field("last_sent", last_sent_);
  reader.field("scanning", scanning_);
  return reader.status();
}

void Ps2Mouse::set_defaults() {
  rate_ = 100;
  resolution_ = 2;
  reporting_ = scaling_ = remote_ = wrap_ = false;
  dx_ = dy_ = dz_ = 0;
}

void Ps2Mouse::reset() {
  set_defaults();
  device_id_ = 0;
  knock_ = {};
  buttons_ = 0;
  pending_command_ = 0;
  queue_.clear();
}

void Ps2Mouse::write(uint8_t value) {
  if (wrap_ && value != kReset && value != kResetWrap) {
    queue_.push(value);
    return;
  }
  if (pending_command_ != 0) {
    const uint8_t command = pending_command_;
    pending_command_ = 0;
    if (command == kSetRate) {
      rate_ = value;
      knock_ = {knock_[1], knock_[2], value};
      // The wheel mouse shows itself after sample rates 200, 100, 80.
      if (knock_ == std::array<uint8_t, 3>{200, 100, 80}) device_id_ = 3;
    } else {
      resolution_ = value & 3;
    }
    queue_.push(kAck);
    return;
  }
  switch (value) {
    case kScaling1:
    case kScaling2:
      scaling_ = value == kScaling2;
      queue_.push(kAck);
      break;
    case kSetRate:
    case kSetResolution:
      pending_command_ = value;
      queue_.push(kAck);
      break;
    case kStatusRequest: {
      const auto modes =
          static_cast<uint8_t>((remote_ ? 0x40 : 0) | (reporting_ ? 0x20 : 0) | (scaling_ ? 0x10 : 0) |
                               ((buttons_ & 1) ? 4 : 0) | ((buttons_ & 4) ? 2 : 0) | ((buttons_ & 2) ? 1 : 0));
      const std::array<uint8_t, 4> answer = {kAck, modes, resolution_, rate_};
      queue_.push(answer);
      break;
    }
    case kStreamMode:
    case kRemoteMode:
      remote_ = value == kRemoteMode;
      queue_.push(kAck);
      break;
    case kReadData:
      queue_.push(kAck);
      send_packet();
      break;
    case kResetWrap:
    case kWrapMode:
      wrap_ = value == kWrapMode;
      queue_.push(kAck);
      break;
    case kIdentify: {
      const std::array<uint8_t, 2> answer = {kAck, device_id_};
      queue_.push(answer);
      break;
    }
    case kEnable:
    case kDisable:
      reporting_ = value == kEnable;
      queue_.push(kAck);
      break;
    case kSetDefaults:
      set_defaults();
      queue_.push(kAck);
      break;
    case kReset: {
      reset();
      constexpr std::array<uint8_t, 3> kPassed = {kAck, kDeviceTestPassed, 0};
      queue_.push(kPassed);
      break;
    }
    default: queue_.push(kResend); break;
  }
}

// One report carries at most 9 bits of each movement; the rest stays for the next.
void Ps2Mouse::send_packet() {
  const int x = std::clamp(dx_, -255, 255), y = std::clamp(dy_, -255, 255), z = std::clamp(dz_, -7, 7);
  std::array<uint8_t, 4> packet = {static_cast<uint8_t>((buttons_ & 7) | 8 | (x < 0 ? 0x10 : 0) | (y < 0 ? 0x20 : 0)),
                                   static_cast<uint8_t>(x), static_cast<uint8_t>(y), static_cast<uint8_t>(z)};
  if (!queue_.push(std::span(packet).first(device_id_ == 3 ? 4 : 3))) return;
  dx_ -= x;
  dy_ -= y;
  dz_ -= z;
}

void Ps2Mouse::move(int dx, int dy, int dz, uint8_t buttons) {
  dx_ = std::clamp(dx_ + std::clamp(dx, -kFarthest, kFarthest), -kFarthest, kFarthest);
  dy_ = std::clamp(dy_ + std::clamp(dy, -kFarthest, kFarthest), -kFarthest, kFarthest);
  dz_ = std::clamp(dz_ + std::clamp(dz, -kFarthest, kFarthest), -kFarthest, kFarthest);
  const bool clicked = buttons != buttons_;
  buttons_ = buttons & 7;
  if (!reporting_ || remote_) return;
  if (clicked || dx_ != 0 || dy_ != 0 || dz_ != 0) send_packet();
}

void Ps2Mouse::save(state::StateWriter& writer) const {
  queue_.save(writer);
  writer.field("pending_command", pending_command_);
  writer.field("rate", rate_);
  writer.field("resolution", resolution_);
  writer.field("buttons", buttons_);
  writer.field("device_id", device_id_);
  writer.field("knock", knock_);
  writer.field("reporting", reporting_);
  writer.field("scaling", scaling_);
  writer.field("remote", remote_);
  writer.field("wrap", wrap_);
  writer.field("dx", dx_);
  writer.field("dy", dy_);
  writer.field("dz", dz_);
}

Status Ps2Mouse::load(state::StateReader& reader) {
  RHEA_TRY(queue_.load(reader));
  reader.field("pending_command", pending_command_);
  reader.field("rate", rate_);
  reader.field("resolution", resolution_);
  reader.field("buttons", buttons_);
  reader.field("device_id", device_id_);
  reader.field("knock", knock_);
  reader.field("reporting", reporting_);
  reader.field("scaling", scaling_);
  reader.field("remote", remote_);
  reader.field("wrap", wrap_);
  reader.field("dx", dx_);
  reader.field("dy", dy_);
  reader.field("dz", dz_);
  for (int* movement : {&dx_, &dy_, &dz_}) *movement = std::clamp(*movement, -kFarthest, kFarthest);
  return reader.status();
}

}  // namespace rhea::devices
