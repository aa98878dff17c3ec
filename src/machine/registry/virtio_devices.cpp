// SPDX-License-Identifier: Apache-2.0
// Virtio devices of the PC: in the PCI slots between the host bridge's and the LPC bridge's, or at addresses of their
// own.
#include "machine/registry/virtio_devices.h"

#include <fmt/format.h>

#include "devices/pci/lpc_bridge/lpc_bridge.h"
#include "devices/pci/root_port/root_port.h"
#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/blk/blk.h"
#include "devices/virtio/console/console.h"
#include "devices/virtio/mmio_transport.h"
#include "devices/virtio/net/net.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/rng/rng.h"
#include "machine/pc/layout.h"
#include "machine/registry/registry.h"
#include "net/capture.h"

namespace rhea::machine {
namespace {

using devices::virtio::MmioTransport;
using devices::virtio::PciTransport;
using devices::virtio::VirtioDevice;

constexpr uint32_t kStateVersion = 1;
constexpr uint8_t kFirstSlot = 2;

constexpr std::string_view kFormats[] = {kFormatByName, "raw", "qcow2"};
constexpr std::string_view kBlockSizes[] = {"512", "4096"};
constexpr std::string_view kBackings[] = {"beside", "anywhere"};
constexpr io::PropertySpec kDiskProperties[] = {
    {.name = "path", .help = "image file or block device", .required = true},
    {.name = "format",
     .type = io::PropertyType::kChoice,
     .help = "image format",
     .default_value = kFormatByName,
     .choices = kFormats},
    {.name = "readonly", .type = io::PropertyType::kBool, .help = "refuse writes", .default_value = "off"},
    {.name = "serial", .help = "serial number, up to 20 characters", .default_value = ""},
    {.name = "block",
     .type = io::PropertyType::kChoice,
     .help = "bytes of a block, as the guest sees them",
     .default_value = "512",
     .choices = kBlockSizes},
    {.name = "queues",
     .type = io::PropertyType::kUint,
     .help = "request queues",
     .default_value = "1",
     .min = 1,
     .max = 64},
    {.name = "backing",
     .type = io::PropertyType::kChoice,
     .help = "where backing files may lie",
     .default_value = "beside",
     .choices = kBackings},
    {.name = "io-uring",
     .type = io::PropertyType::kBool,
     .help = "use io_uring where the host has it",
     .default_value = "on"},
};
constexpr io::DeviceSpec kDiskSpec = {
    .name = "disk", .help = "virtio block device", .state_version = kStateVersion, .properties = kDiskProperties};

// Gives each device its place: the next PCI slot, or the next registers and interrupt line.
class Slots {
 public:
  Slots(Board& board, std::vector<NamedDevice>& devices) : board_(board), devices_(devices) {}

  Status plug(const std::string& name, std::unique_ptr<VirtioDevice> device) {
    switch (board_.options.transport) {
      case VirtioTransport::kPci: return plug_pci(name, std::move(device));
      case VirtioTransport::kPciPorts: return plug_port(name, std::move(device));
      case VirtioTransport::kMmio:
      case VirtioTransport::kMmioCommandLine: break;
    }
    return plug_mmio(name, std::move(device));
  }

 private:
  void keep(const std::string& name, std::unique_ptr<io::Device> device) {
    devices_.push_back({name, kStateVersion, std::move(device)});
  }

  Status plug_pci(const std::string& name, std::unique_ptr<VirtioDevice> device) {
    if (next_ == devices::LpcBridge::kDeviceNumber)
      return fail(ErrorCode::kExhausted, "too many devices: the PCI bus has no slot left");
    auto transport = std::make_unique<PciTransport>(std::move(device));
    RHEA_TRY(board_.pci.add(*transport, next_++, 0));
    keep(name, std::move(transport));
    return {};
  }

  // Eight ports share a device number. A port outlives what is behind it, so it comes later in the list.
  Status plug_port(const std::string& name, std::unique_ptr<VirtioDevice> device) {
    constexpr unsigned kFunctions = 8, kMost = (devices::LpcBridge::kDeviceNumber - kFirstSlot) * kFunctions;
    if (ports_ == kMost)
      return fail(ErrorCode::kExhausted, fmt::format("too many devices: there are {} PCI Express ports", kMost));
    auto port = std::make_unique<devices::RootPort>(
        devices::RootPort::Options{
            .name = fmt::format("port{}", ports_), .number = static_cast<uint8_t>(ports_), .multifunction = true},
        board_.pci.context());
    RHEA_TRY(board_.pci.add(*port, static_cast<uint8_t>(kFirstSlot + ports_ / kFunctions),
                            static_cast<uint8_t>(ports_ % kFunctions)));
    ++ports_;
    auto transport = std::make_unique<PciTransport>(std::move(device), PciTransport::Place::kPort);
    RHEA_TRY(port->secondary_bus().add(*transport, 0, 0));
    port->set_occupied();
    keep(name, std::move(transport));
    const std::string port_name(port->name());
    keep(port_name, std::move(port));
    return {};
  }

  Status plug_mmio(const std::string& name, std::unique_ptr<VirtioDevice> device) {
    // Lines that PCI devices share, level-triggered, or ISA's, which are not: there each device has its own.
    constexpr unsigned kLevelLines[] = {16, 17, 18, 19, 20, 21, 22, 23}, kIsaLines[] = {5, 6, 7, 10, 11, 14, 15};
    constexpr size_t kMost = 64;
    const bool isa = board_.options.transport == VirtioTransport::kMmioCommandLine;
    const size_t index = board_.virtio_mmio.size();
    if (index >= (isa ? std::size(kIsaLines) : kMost))
      return fail(ErrorCode::kExhausted,
                  fmt::format("too many devices: this transport takes {} of them", isa ? std::size(kIsaLines) : kMost));
    const VirtioMmioSlot slot{.base = static_cast<uint32_t>(kVirtioMmioBase + index * MmioTransport::kSizeBytes),
                              .size_bytes = MmioTransport::kSizeBytes,
                              .gsi = isa ? kIsaLines[index] : kLevelLines[index % std::size(kLevelLines)]};
    auto transport = std::make_unique<MmioTransport>(std::move(device), io::IrqLine(&board_.router, slot.gsi));
    board_.physical.map({.start = slot.base,
                         .size_bytes = slot.size_bytes,
                         .handler = transport.get(),
                         .name = std::string(transport->name())});
    board_.virtio_mmio.push_back(slot);
    keep(name, std::move(transport));
    return {};
  }

  Board& board_;
  std::vector<NamedDevice>& devices_;
  unsigned ports_ = 0;
  uint8_t next_ = kFirstSlot;
};

Result<std::unique_ptr<VirtioDevice>> create_disk(const DiskOptions& options, const std::string& name,
                                                  memory::GuestMemory& memory, base::IoThread& thread) {
  auto disk = RHEA_TRY(block::open_disk(thread.loop(), options.path,
                                        {.read_only = options.read_only,
                                         .format = options.format,
                                         .backing_anywhere = options.backing_anywhere,
                                         .trusted_backing = options.trusted_backing,
                                         .allow_io_uring = options.io_uring}));
  return RHEA_TRY(devices::virtio::Blk::create(
      {.name = name, .serial = options.serial, .queues = options.queues, .block_bytes = options.block_bytes},
      {.memory = memory, .thread = thread, .disk = std::move(disk)}));
}

}  // namespace

const io::DeviceSpec& disk_spec() { return kDiskSpec; }

Result<DiskOptions> parse_disk(std::string_view text) {
  // The first word may be the file alone.
  const std::string_view first = text.substr(0, text.find(','));
  const std::string whole =
      first.find('=') == std::string_view::npos ? fmt::format("path={}", text) : std::string(text);
  const io::PropertyValues values = RHEA_TRY(io::PropertyValues::parse(kDiskSpec, whole));
  return DiskOptions{.path = values.get_string("path"),
                     .format = values.get_string("format"),
                     .serial = values.get_string("serial"),
                     .read_only = values.get_bool("readonly"),
                     .queues = static_cast<unsigned>(values.get_uint("queues")),
                     .block_bytes = values.get_string("block") == "4096" ? 4096u : 512u,
                     .backing_anywhere = values.get_string("backing") == "anywhere",
                     .io_uring = values.get_bool("io-uring")};
}

Status create_virtio_devices(Board& board, memory::GuestMemory& memory,
                             std::vector<std::unique_ptr<base::IoThread>>& threads, std::vector<NamedDevice>& devices) {
  Slots slots(board, devices);
  const auto new_thread = [&threads](const std::string& name) -> Result<base::IoThread*> {
    threads.push_back(RHEA_TRY(base::IoThread::create(name)));
    return threads.back().get();
  };
  const auto plug = [&](const std::string& name, std::unique_ptr<VirtioDevice> device) {
    return slots.plug(name, std::move(device));
  };
  for (size_t i = 0; i < board.options.disks.size(); ++i) {
    const std::string name = fmt::format("disk{}", i);
    base::IoThread* const thread = RHEA_TRY(new_thread("rhea-" + name));
    auto disk = RHEA_TRY(create_disk(board.options.disks[i], name, memory, *thread));
    RHEA_TRY(plug(name, std::move(disk)));
  }
  std::shared_ptr<net::CaptureFile> capture;
  if (!board.options.capture.empty()) capture = RHEA_TRY(net::create_capture(board.options.capture));
  unsigned user_networks = 0;
  for (size_t i = 0; i < board.options.networks.size(); ++i) {
    const NetworkOptions& options = board.options.networks[i];
    const std::string name = fmt::format("net{}", i);
    base::IoThread* const thread = RHEA_TRY(new_thread("rhea-" + name));
    auto network = RHEA_TRY(create_network(options, i, user_networks, thread->loop()));
    user_networks += options.kind == NetworkOptions::Kind::kUser;
    if (capture) network = net::capture_network(std::move(network), capture);
    auto card =
        RHEA_TRY(devices::virtio::Net::create({.name = name,
                                               .mac = mac_of(options, i),
                                               .mtu = options.mtu,
                                               .pairs = options.queues,
                                               .link_up = options.link_up},
                                              {.memory = memory, .thread = *thread, .network = std::move(network)}));
    RHEA_TRY(plug(name, std::move(card)));
  }
  if (!board.options.console_ports.empty()) {
    base::IoThread* const thread = RHEA_TRY(new_thread("rhea-console0"));
    devices::virtio::Console::Options options{.name = "console0", .ports = {}};
    for (const ConsolePortOptions& port : board.options.console_ports)
      options.ports.push_back({.name = port.name, .backend = port.backend});
    auto console =
        RHEA_TRY(devices::virtio::Console::create(std::move(options), {.memory = memory, .thread = *thread}));
    board.console = console.get();
    RHEA_TRY(plug("console0", std::move(console)));
  }
  if (!board.options.entropy && !board.options.balloon) return {};
  base::IoThread* const thread = RHEA_TRY(new_thread("rhea-io"));  // what is seldom asked
  if (board.options.entropy) {
    auto rng = RHEA_TRY(devices::virtio::Rng::create("rng0", {.memory = memory, .thread = *thread}));
    RHEA_TRY(plug("rng0", std::move(rng)));
  }
  if (board.options.balloon) {
    auto balloon = RHEA_TRY(devices::virtio::Balloon::create("balloon0", {.memory = memory, .thread = *thread}));
    balloon->set_target(board.options.balloon_bytes);
    board.balloon = balloon.get();
    RHEA_TRY(plug("balloon0", std::move(balloon)));
  }
  return {};
}

// [Linux admin-guide/kernel-parameters virtio_mmio.device]
std::string virtio_mmio_parameters(std::span<const VirtioMmioSlot> slots) {
  std::string text;
  for (const VirtioMmioSlot& slot : slots)
    text += fmt::format("{}virtio_mmio.device={}K@{:#x}:{}", text.empty() ? "" : " ", slot.size_bytes >> 10, slot.base,
                        slot.gsi);
  return text;
}

}  // namespace rhea::machine
