// SPDX-License-Identifier: Apache-2.0
// One VM on KVM: its memory slots, its clock, and the MSRs that come to us.
#include "engine/kvm/kvm_engine.h"

#include <fmt/format.h>

#include "engine/kvm/kick_signal.h"
#include "engine/kvm/kvm_cpuid.h"
#include "engine/kvm/kvm_device.h"
#include "engine/kvm/kvm_vcpu.h"

namespace rhea::engine_kvm {

namespace {

// Capabilities without which there is no engine. All are older than any kernel that Rhea knows.
struct Requirement {
  int capability;
  const char* name;
};
constexpr Requirement kRequirements[] = {
    {KVM_CAP_USER_MEMORY, "user memory regions"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exits"},
    {KVM_CAP_X86_USER_SPACE_MSR, "MSR exits"},
    {KVM_CAP_X86_MSR_FILTER, "MSR filters"},
    {KVM_CAP_EXCEPTION_PAYLOAD, "pending exceptions with what they report"},
    {KVM_CAP_SREGS2, "the second form of system registers"},
    {KVM_CAP_XSAVE2, "the second form of the XSAVE area"},
    {KVM_CAP_XCRS, "XCR0"},
    {KVM_CAP_VCPU_EVENTS, "pending events"},
    {KVM_CAP_DEBUGREGS, "debug registers"},
    {KVM_CAP_SET_GUEST_DEBUG, "guest debugging"},
};

// Real-mode code on old processors needs pages of the guest's for itself; nothing else lies here. [kvm-api 4.36, 4.43]
constexpr uint64_t kIdentityMapAddress = 0xfeffc000, kTssAddress = 0xfeffd000;

class KvmEngine final : public cpu::Engine {
 public:
  explicit KvmEngine(const cpu::EngineContext& context) : context_(context) {}

  Status set_up(const KvmOptions& options) {
    const KvmDevice device = RHEA_TRY(KvmDevice::open(options.device));
    for (const Requirement& requirement : kRequirements)
      if (!device.capability(requirement.capability))
        return fail(ErrorCode::kUnsupported,
                    fmt::format("this kernel's KVM is too old or of another kind: it lacks {}", requirement.name));
    RHEA_TRY(install_kick_signal());
    vm_fd_ = RHEA_TRY(device.create_vm());
    vm_.vm_fd = vm_fd_.get();
    vm_.run_mapping_bytes = static_cast<size_t>(
        RHEA_TRY(checked_ioctl(device.fd(), KVM_GET_VCPU_MMAP_SIZE, 0, "asking for the size of a vCPU's exits")));
    vm_.gate = &gate_;
    uint64_t identity = kIdentityMapAddress;
    if (device.capability(KVM_CAP_SET_IDENTITY_MAP_ADDR))
      RHEA_TRY(checked_ioctl(vm_.vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity, "placing KVM's identity map"));
    if (device.capability(KVM_CAP_SET_TSS_ADDR))
      RHEA_TRY(checked_ioctl(vm_.vm_fd, KVM_SET_TSS_ADDR, kTssAddress, "placing KVM's task segment"));
    RHEA_TRY(take_msrs());
    kvm_enable_cap payload{.cap = KVM_CAP_EXCEPTION_PAYLOAD};
    payload.args[0] = 1;
    RHEA_TRY(checked_ioctl(vm_.vm_fd, KVM_ENABLE_CAP, &payload, "asking for pending exceptions in full"));
    RHEA_TRY(set_clock());
    const int slots = device.capability(KVM_CAP_NR_MEMSLOTS);
    slots_ = std::make_unique<MemorySlots>(
        vm_.vm_fd, context_.physical, gate_,
        MemorySlots::Limits{.slots = slots > 0 ? static_cast<uint32_t>(slots) : 32,
                            .read_only_slots = device.capability(KVM_CAP_READONLY_MEM) != 0});
    if (const std::string failure = slots_->failure(); !failure.empty()) return fail(ErrorCode::kExhausted, failure);
    vm_.slots = slots_.get();
    return {};
  }

  std::string_view name() const override { return "kvm"; }
  Result<std::unique_ptr<cpu::Vcpu>> create_vcpu(unsigned index, cpu::Lapic& lapic) override {
    if (index >= context_.vcpus) return fail(ErrorCode::kInvalidArgument, "more vCPUs than the engine was made for");
    return KvmVcpu::create(context_, vm_, index, lapic);
  }

 private:
  // MSRs of the local APIC and the clock exit to us, and so do those that KVM does not know.
  Status take_msrs() {
    kvm_enable_cap exits{.cap = KVM_CAP_X86_USER_SPACE_MSR};
    exits.args[0] = KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN;
    RHEA_TRY(checked_ioctl(vm_.vm_fd, KVM_ENABLE_CAP, &exits, "asking for MSR exits"));
    struct Taken {
      uint32_t index, access;
    };
    constexpr uint32_t kBoth = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
    // TSC, IA32_APIC_BASE, TSC_ADJUST, TSC_DEADLINE
    constexpr Taken kTaken[] = {
        {0x10, KVM_MSR_FILTER_WRITE}, {0x1b, kBoth}, {0x3b, KVM_MSR_FILTER_WRITE}, {0x6e0, kBoth}};
    static_assert(std::size(kTaken) <= KVM_MSR_FILTER_MAX_RANGES);
    uint8_t none = 0;  // a bitmap of one MSR: not allowed
    kvm_msr_filter filter{.flags = KVM_MSR_FILTER_DEFAULT_ALLOW};
    for (size_t i = 0; i < std::size(kTaken); ++i)
      filter.ranges[i] = {.flags = kTaken[i].access, .nmsrs = 1, .base = kTaken[i].index, .bitmap = &none};
    RHEA_TRY(checked_ioctl(vm_.vm_fd, KVM_X86_SET_MSR_FILTER, &filter, "setting the MSR filter"));
    return {};
  }

  // kvmclock counts as the machine's clock does.
  Status set_clock() {
    kvm_clock_data clock{.clock = context_.clock.now_ns()};
    RHEA_TRY(checked_ioctl(vm_.vm_fd, KVM_SET_CLOCK, &clock, "setting the guest's clock"));
    return {};
  }

  cpu::EngineContext context_;
  base::UniqueFd vm_fd_;
  RunGate gate_;
  VmContext vm_;
  std::unique_ptr<MemorySlots> slots_;
};

}  // namespace

Result<std::unique_ptr<cpu::Engine>> create_kvm_engine(const cpu::EngineContext& context, const KvmOptions& options) {
  auto engine = std::make_unique<KvmEngine>(context);
  RHEA_TRY(engine->set_up(options));
  return engine;
}

Result<std::vector<std::string>> features_withheld(const KvmOptions& options) {
  const KvmDevice device = RHEA_TRY(KvmDevice::open(options.device));
  return withheld_features(RHEA_TRY(supported_cpuid(device)));
}

}  // namespace rhea::engine_kvm
