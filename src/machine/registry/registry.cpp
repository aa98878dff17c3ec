// SPDX-License-Identifier: Apache-2.0
// The devices of the PC. A new device is a factory and a line in kRegistry.
#include "machine/registry/registry.h"

#include "devices/acpi/reset_register/reset_register.h"
#include "devices/input/i8042/i8042.h"
#include "devices/input/port92/port92.h"
#include "devices/irqchip/ioapic/ioapic.h"
#include "devices/irqchip/pic/pic.h"
#include "devices/misc/debug_exit/debug_exit.h"
#include "devices/misc/debugcon/debugcon.h"
#include "devices/pci/host_bridge/host_bridge.h"
#include "devices/pci/lpc_bridge/lpc_bridge.h"
#include "devices/serial/uart16550/uart16550.h"
#include "devices/timers/hpet/hpet.h"
#include "machine/pc/layout.h"

namespace rhea::machine {
namespace {

using Created = Result<std::unique_ptr<io::Device>>;

bool always(const BoardOptions&) { return true; }

Created create_pic(Board& board) {
  auto pic = std::make_unique<devices::Pic>(devices::Pic::Context{.router = board.router});
  pic->map_into(board.ports);
  board.router.connect_gsi_sink(pic.get());
  board.router.connect_ext_int_source(pic.get());
  return pic;
}

Created create_ioapic(Board& board) {
  auto ioapic = std::make_unique<devices::Ioapic>(devices::Ioapic::Context{.router = board.router});
  ioapic->map_into(board.physical);
  board.router.connect_gsi_sink(ioapic.get());
  board.router.connect_eoi_listener(ioapic.get());
  return ioapic;
}

Created create_pit(Board& board) {
  auto pit = std::make_unique<devices::Pit>(devices::Pit::Context{.clock = board.clock, .irq = {&board.router, 0}});
  pit->map_into(board.ports);
  board.pit = pit.get();
  return pit;
}

Created create_rtc(Board& board) {
  auto rtc = std::make_unique<devices::Rtc>(
      devices::Rtc::Options{.memory_below_4g_bytes = board.options.memory_below_4g_bytes,
                            .memory_above_4g_bytes = board.options.memory_above_4g_bytes},
      devices::Rtc::Context{.clock = board.clock, .irq = {&board.router, 8}});
  rtc->map_into(board.ports);
  board.rtc = rtc.get();
  return rtc;
}

Created create_hpet(Board& board) {
  auto hpet = std::make_unique<devices::Hpet>(
      devices::Hpet::Context{.clock = board.clock,
                             .router = board.router,
                             .set_legacy_replacement = [pit = board.pit, rtc = board.rtc](bool replaced) {
                               pit->set_irq_replaced(replaced);
                               rtc->set_irq_replaced(replaced);
                             }});
  hpet->map_into(board.physical);
  return hpet;
}

template <unsigned kIndex>
Created create_serial(Board& board) {
  constexpr uint16_t kPorts[] = {0x3f8, 0x2f8};
  constexpr unsigned kIrqs[] = {4, 3};
  constexpr const char* kNames[] = {"serial0", "serial1"};
  auto uart = std::make_unique<devices::Uart16550>(
      devices::Uart16550::Options{.name = kNames[kIndex], .port = kPorts[kIndex]},
      devices::Uart16550::Context{
          .clock = board.clock, .irq = {&board.router, kIrqs[kIndex]}, .backend = board.options.serial[kIndex]});
  uart->map_into(board.ports);
  return uart;
}

Created create_i8042(Board& board) {
  auto controller = std::make_unique<devices::I8042>(devices::I8042::Context{
      .keyboard_irq = {&board.router, 1},
      .mouse_irq = {&board.router, 12},
      .request_reset = board.requests.reset,
      .set_a20 = [&a20 = board.a20](bool level) { a20.set(A20Gate::kKeyboardController, level); }});
  controller->map_into(board.ports);
  return controller;
}

Created create_port92(Board& board) {
  auto port = std::make_unique<devices::Port92>(
      devices::Port92::Context{.request_reset = board.requests.reset,
                               .set_a20 = [&a20 = board.a20](bool level) { a20.set(A20Gate::kPort92, level); }});
  port->map_into(board.ports);
  return port;
}

Created create_acpi_pm(Board& board) {
  auto pm = std::make_unique<devices::AcpiPm>(
      devices::AcpiPm::Options{}, devices::AcpiPm::Context{.clock = board.clock,
                                                           .sci = {&board.router, devices::pm_regs::kSciGsi},
                                                           .power_off = board.requests.power_off,
                                                           .smi = board.requests.smi});
  pm->map_into(board.ports);
  board.power_management = pm.get();
  return pm;
}

Created create_reset_register(Board& board) {
  auto reset =
      std::make_unique<devices::ResetRegister>(devices::ResetRegister::Context{.request_reset = board.requests.reset});
  board.reset_register = reset.get();
  return reset;
}

Created create_host_bridge(Board& board) {
  auto bridge = std::make_unique<devices::HostBridge>(
      devices::HostBridge::Options{.ecam_base = kEcamBase},
      devices::HostBridge::Context{.bus = board.pci,
                                   .reset_register = board.reset_register,
                                   .low_ram = board.low_ram,
                                   .low_ram_bytes = board.options.memory_below_4g_bytes});
  RHEA_TRY(bridge->install());
  return bridge;
}

Created create_lpc_bridge(Board& board) {
  using devices::LpcBridge;
  auto bridge = std::make_unique<LpcBridge>(LpcBridge::Options{});
  RHEA_TRY(board.pci.add(*bridge, LpcBridge::kDeviceNumber, LpcBridge::kFunctionNumber));
  return bridge;
}

Created create_debug_exit(Board& board) {
  auto port = std::make_unique<devices::DebugExit>(devices::DebugExit::Options{},
                                                   devices::DebugExit::Context{.exit = board.requests.debug_exit});
  port->map_into(board.ports);
  return port;
}

Created create_debugcon(Board& board) {
  auto port = std::make_unique<devices::Debugcon>(devices::Debugcon::Options{},
                                                  devices::Debugcon::Context{.sink = board.options.debugcon});
  port->map_into(board.ports);
  return port;
}

constexpr BoardDevice kRegistry[] = {
    {"pic", "8259A interrupt controllers", 1, always, create_pic},
    {"ioapic", "I/O APIC", 1, always, create_ioapic},
    {"pit", "8254 interval timer", 1, always, create_pit},
    {"rtc", "MC146818 real-time clock", 1, always, create_rtc},
    {"hpet", "high precision event timer", 1, always, create_hpet},
    {"serial0", "16550A UART, COM1", 1, always, create_serial<0>},
    {"serial1", "16550A UART, COM2", 1, always, create_serial<1>},
    {"i8042", "keyboard controller", 1, always, create_i8042},
    {"port92", "system control port A", 1, always, create_port92},
    {"acpi-pm", "ACPI power management", 2, always, create_acpi_pm},
    {"reset-register", "reset control register 0xcf9", 1, always, create_reset_register},
    {"host-bridge", "Q35 host bridge", 2, always, create_host_bridge},
    {"lpc-bridge", "ICH9 LPC bridge", 1, always, create_lpc_bridge},
    {"debug-exit", "debug-exit port 0xf4", 1, [](const BoardOptions& options) { return options.debug_exit; },
     create_debug_exit},
    {"debugcon", "debug console port 0xe9", 1,
     [](const BoardOptions& options) { return static_cast<bool>(options.debugcon); }, create_debugcon},
};

}  // namespace

std::span<const BoardDevice> device_registry() { return kRegistry; }

}  // namespace rhea::machine
