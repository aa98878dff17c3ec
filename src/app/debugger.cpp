// SPDX-License-Identifier: Apache-2.0
// Adapter between the machine and the gdb server.
#include "app/debugger.h"

#ifdef RHEA_HAVE_GDB_SERVER
#include "debug/gdb_server.h"
#endif

namespace rhea::app {

#ifdef RHEA_HAVE_GDB_SERVER
namespace {

class MachineDebugger final : public Debugger, public debug::DebugTarget {
 public:
  explicit MachineDebugger(machine::Machine& machine) : machine_(machine) {}
  ~MachineDebugger() override {
    machine_.set_stop_listener({});
    server_.reset();
  }

  Status listen(base::EventLoop& loop, const std::string& address) {
    server_ = RHEA_TRY(debug::GdbServer::create(loop, *this, address));
    machine_.set_stop_listener([this](unsigned vcpu, cpu::StopReason reason) { on_stopped(vcpu, reason); });
    return {};
  }
  const std::string& address() const override { return server_->address(); }
  bool wants_shutdown_stop() const { return server_->connected(); }

  unsigned vcpu_count() const override { return machine_.cpu_count(); }
  cpu::Vcpu& vcpu(unsigned index) override { return machine_.vcpu(index); }
  memory::GuestMemory& memory() override { return machine_.memory(); }
  void stop() override { machine_.pause(); }
  void resume() override { machine_.resume(); }
  void step(unsigned index) override { machine_.step(index); }
  void kill() override { machine_.request_stop(); }

 private:
  void on_stopped(unsigned vcpu, cpu::StopReason reason) {
    using Reason = debug::StopEvent::Reason;
    Reason why = reason == cpu::StopReason::kShutdown ? Reason::kShutdown
                 : reason == cpu::StopReason::kDebug  ? Reason::kDebug
                                                      : Reason::kInterrupted;
    server_->on_stopped({.reason = why, .vcpu = vcpu});
  }

  machine::Machine& machine_;
  std::unique_ptr<debug::GdbServer> server_;
};

}  // namespace

Result<std::unique_ptr<Debugger>> attach_debugger(base::EventLoop& loop, machine::Machine& machine,
                                                  const std::string& address) {
  auto debugger = std::make_unique<MachineDebugger>(machine);
  RHEA_TRY(debugger->listen(loop, address));
  return debugger;
}
#else
Result<std::unique_ptr<Debugger>> attach_debugger(base::EventLoop&, machine::Machine&, const std::string&) {
  return fail(ErrorCode::kUnsupported, "the gdb server is not built into this program");
}
#endif

}  // namespace rhea::app
