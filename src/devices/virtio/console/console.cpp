// SPDX-License-Identifier: Apache-2.0
// Bytes in and out, and the control messages about ports.
#include "devices/virtio/console/console.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "devices/virtio/console/console_wire.h"
#include "state/state_reader.h"
#include "state/state_writer.h"

namespace rhea::devices::virtio {

using namespace console;

namespace {

constexpr size_t kMostPorts = 31;
constexpr uint16_t kQueueSize = 64;
constexpr size_t kInputBytes = 4096;          // waiting for the guest, of each port
constexpr size_t kMaximumMessages = 256;      // a guest that does not take them gets no more
constexpr uint64_t kMaximumOutput = 1 << 20;  // of one buffer
constexpr size_t kOutputPiece = 4096;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

}  // namespace

// What stands between a port's queues and its backend.
class Console::Port final : public CharReceiver {
 public:
  Port(Console& console, PortOptions options) : console_(console), options_(std::move(options)) {}
  ~Port() override {
    if (options_.backend) options_.backend->set_receiver(nullptr);
  }
  void attach() {
    if (options_.backend) options_.backend->set_receiver(this);
  }
  const std::string& name() const { return options_.name; }
  void write(std::span<const std::byte> data) {
    if (options_.backend) options_.backend->write(data);
  }

  size_t receive_capacity() const override {
    const std::lock_guard lock(mutex_);
    return kInputBytes - waiting_.size();
  }
  size_t receive(std::span<const std::byte> data) override {
    size_t taken = 0;
    {
      const std::lock_guard lock(mutex_);
      taken = std::min(data.size(), kInputBytes - waiting_.size());
      waiting_.insert(waiting_.end(), data.begin(), data.begin() + static_cast<ptrdiff_t>(taken));
    }
    if (taken) console_.bell_->ring();
    return taken;
  }

  // I/O thread.
  std::vector<std::byte> waiting() const {
    const std::lock_guard lock(mutex_);
    return waiting_;
  }
  void set_waiting(std::vector<std::byte> bytes) {
    const std::lock_guard lock(mutex_);
    waiting_ = std::move(bytes);
  }
  void taken(size_t count) {
    {
      const std::lock_guard lock(mutex_);
      waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<ptrdiff_t>(count));
    }
    if (options_.backend) options_.backend->on_receive_ready();
  }

  bool open = false;  // in the guest, as it said; I/O thread

 private:
  Console& console_;
  const PortOptions options_;
  mutable std::mutex mutex_;
  std::vector<std::byte> waiting_;
};

Result<std::unique_ptr<Console>> Console::create(Options options, const Context& context) {
  if (options.ports.empty() || options.ports.size() > kMostPorts)
    return fail(ErrorCode::kInvalidArgument, "a console has 1 to 31 ports");
  std::unique_ptr<Console> device(new Console(std::move(options), context));
  device->bell_ = RHEA_TRY(base::Doorbell::create(context.thread.loop(), [raw = device.get()] { raw->serve(); }));
  for (const auto& port : device->ports_) port->attach();
  return device;
}

Console::Console(Options options, const Context& context)
    : VirtioDevice({.name = options.name,
                    .type = DeviceType::kConsole,
                    .features = kFeatureSize | kFeatureMultiport,
                    .queue_sizes = std::vector<uint16_t>(2 * options.ports.size() + 2, kQueueSize),
                    .configuration_bytes = kConfigurationBytes},
                   context.memory),
      thread_(context.thread) {
  for (PortOptions& port : options.ports) ports_.push_back(std::make_unique<Port>(*this, std::move(port)));
}

Console::~Console() {
  set_status(0);
  ports_.clear();  // nothing comes in any more
}

bool Console::multiport() const { return negotiated(kFeatureMultiport); }

void Console::set_size(uint16_t columns, uint16_t rows) {
  {
    const std::lock_guard lock(mutex_);
    if (columns_ == columns && rows_ == rows) return;
    columns_ = columns;
    rows_ = rows;
    size_changed_ = true;
  }
  configuration_changed();
  bell_->ring();
}

// ---- life ----

void Console::on_start() {
  thread_.run_sync([this] { serving_ = true; });
  bell_->ring();
}

void Console::on_stop() {
  thread_.run_sync([this] { serving_ = false; });
}

void Console::on_reset() {
  to_driver_.clear();
  for (const auto& port : ports_) port->open = false;
}

void Console::on_queue_stopped(unsigned index) {
  thread_.run_sync([this, index] { queue(index).stop(); });
}

void Console::serve() {
  if (!serving_) return;
  if (multiport()) {
    serve_control_transmit();
    bool resized = false;
    {
      const std::lock_guard lock(mutex_);
      resized = std::exchange(size_changed_, false);
    }
    if (resized && ports_.front()->open) tell_size();
    serve_control_receive();
  }
  const auto count = static_cast<unsigned>(multiport() ? ports_.size() : 1);
  for (unsigned port = 0; port < count; ++port) {
    serve_output(port);
    serve_input(port);
  }
  for (unsigned index = 0; index < queue_count(); ++index)
    if (queue(index).broken()) return needs_reset();
}

// ---- bytes ----

void Console::serve_output(unsigned port) {
  const unsigned index = transmit_queue(port);
  Queue& ring = queue(index);
  while (auto chain = ring.pop()) {
    std::array<std::byte, kOutputPiece> piece;
    const uint64_t end = std::min(chain->readable_bytes, kMaximumOutput);
    for (uint64_t done = 0; done < end;) {
      const size_t got = read_from(chain->readable, done, std::span(piece).first(std::min(end - done, kOutputPiece)));
      ports_[port]->write(std::span(piece).first(got));
      done += got;
    }
    ring.push(*chain, 0);
    signal(index);
  }
}

// A channel that nobody in the guest has open is not written to: the driver would throw it away.
void Console::serve_input(unsigned number) {
  Port& port = *ports_[number];
  if (multiport() && !port.open) return;
  const unsigned index = receive_queue(number);
  Queue& ring = queue(index);
  for (std::vector<std::byte> bytes = port.waiting(); !bytes.empty(); bytes = port.waiting()) {
    const auto chain = ring.pop();
    if (!chain) return;  // the next notification brings us back
    const size_t written = write_to(memory(), chain->writable, 0, bytes);
    ring.push(*chain, static_cast<uint32_t>(written));
    signal(index);
    if (written) port.taken(written);
  }
}

// ---- control [VIRTIO-1.2 5.3.6.2] ----

void Console::serve_control_transmit() {
  Queue& ring = queue(kControlTransmit);
  while (auto chain = ring.pop()) {
    std::byte message[kControlBytes] = {};
    uint32_t port = 0;
    uint16_t event = 0, value = 0;
    const bool whole = read_from(chain->readable, 0, message) == sizeof message;
    std::memcpy(&port, message, 4);
    std::memcpy(&event, message + 4, 2);
    std::memcpy(&value, message + 6, 2);
    if (whole) handle_control(port, event, value);
    ring.push(*chain, 0);
    signal(kControlTransmit);
  }
}

void Console::handle_control(uint32_t number, uint16_t event, uint16_t value) {
  if (event == kDeviceReady) {
    for (uint32_t port = 0; value == 1 && port < ports_.size(); ++port) tell(port, kDeviceAdd, 1);
    return;
  }
  if (number >= ports_.size()) return;
  Port& port = *ports_[number];
  if (event == kPortOpen) {
    port.open = value == 1;
    if (number == 0 && port.open) tell_size();
  }
  if (event != kPortReady || value != 1) return;
  if (!port.name().empty()) tell(number, kPortName, 1, bytes_of(port.name()));
  if (number == 0) tell(number, kConsolePort, 1);
  tell(number, kPortOpen, 1);
}

void Console::tell(uint32_t port, uint16_t event, uint16_t value, std::span<const std::byte> more) {
  if (to_driver_.size() >= kMaximumMessages) return;
  std::vector<std::byte> message(kControlBytes);
  std::memcpy(&message[0], &port, 4);
  std::memcpy(&message[4], &event, 2);
  std::memcpy(&message[6], &value, 2);
  message.insert(message.end(), more.begin(), more.end());
  to_driver_.push_back(std::move(message));
}

void Console::tell_size() {
  uint16_t size[2];
  {
    const std::lock_guard lock(mutex_);
    size[0] = columns_;
    size[1] = rows_;
  }
  tell(0, kResize, 0, std::as_bytes(std::span(size)));
}

void Console::serve_control_receive() {
  Queue& ring = queue(kControlReceive);
  while (!to_driver_.empty()) {
    const auto chain = ring.pop();
    if (!chain) return;
    const size_t written = write_to(memory(), chain->writable, 0, to_driver_.front());
    to_driver_.pop_front();
    ring.push(*chain, static_cast<uint32_t>(written));
    signal(kControlReceive);
  }
}

// ---- configuration and state ----

void Console::fill_configuration(std::span<std::byte> out) {
  const auto ports = static_cast<uint32_t>(ports_.size());
  const std::lock_guard lock(mutex_);
  std::memcpy(out.data() + kColumns, &columns_, 2);
  std::memcpy(out.data() + kRows, &rows_, 2);
  std::memcpy(out.data() + kMaximumPorts, &ports, 4);
}

void Console::save_device(state::StateWriter& writer) const {
  std::vector<uint8_t> open;
  std::vector<std::byte> messages;  // each with its length before it
  for (const auto& port : ports_) open.push_back(port->open);
  for (const auto& message : to_driver_) {
    messages.push_back(static_cast<std::byte>(message.size()));
    messages.push_back(static_cast<std::byte>(message.size() >> 8));
    messages.insert(messages.end(), message.begin(), message.end());
  }
  writer.field("open", open);
  writer.field("to_driver", messages);
  for (size_t i = 0; i < ports_.size(); ++i) writer.field("input" + std::to_string(i), ports_[i]->waiting());
}

// The terminal here may be another: its size is told anew.
void Console::load_device(state::StateReader& reader) {
  std::vector<uint8_t> open;
  std::vector<std::byte> messages;
  reader.field("open", open);
  reader.field("to_driver", messages);
  reader.validate(open.size() == ports_.size(), "has another number of ports");
  if (!reader.ok()) return;
  for (size_t i = 0; i < ports_.size(); ++i) {
    std::vector<std::byte> input;
    reader.field("input" + std::to_string(i), input);
    reader.validate(input.size() <= kInputBytes, "holds more input than a port does");
    if (!reader.ok()) return;
    ports_[i]->open = open[i] != 0;
    ports_[i]->set_waiting(std::move(input));
  }
  to_driver_.clear();
  for (size_t at = 0; at + 2 <= messages.size() && to_driver_.size() < kMaximumMessages;) {
    const size_t length = std::to_integer<size_t>(messages[at]) | std::to_integer<size_t>(messages[at + 1]) << 8;
    at += 2;
    if (length > messages.size() - at) return reader.validate(false, "holds half a message");
    const auto from = messages.begin() + static_cast<ptrdiff_t>(at);
    to_driver_.emplace_back(from, from + static_cast<ptrdiff_t>(length));
    at += length;
  }
  const std::lock_guard lock(mutex_);
  size_changed_ = true;
}

}  // namespace rhea::devices::virtio
