// SPDX-License-Identifier: Apache-2.0
// What confined threads can and cannot do. Confinement is for good, so each case confines a child process of its own.
#include "sandbox/sandbox.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace rhea::sandbox {
namespace {

using ::testing::ExitedWithCode;
using ::testing::KilledBySignal;

constexpr int kUnharmed = 42;  // the status of a child that came to its end

class SandboxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!Sandbox::built()) GTEST_SKIP() << "a build with sanitizers has no sandbox";
  }
};

void require(bool condition, const char* what) {
  if (condition) return;
  (void)!::write(2, what, std::strlen(what));
  ::_exit(99);
}

// In a child: does `action` on a vCPU's thread (or the process's first one) under the sandbox.
enum class Where { kVcpu, kDevice, kMain };
[[noreturn]] void confined(Where where, const std::function<void()>& action, Sandbox::Options options = {}) {
  Sandbox::prepare();
  auto sandbox = Sandbox::create(options);
  require(sandbox.has_value(), "create");
  require((*sandbox)->confine_process().has_value(), "confine_process");
  if (where == Where::kMain) {
    action();
    ::_exit(kUnharmed);
  }
  std::thread thread([&] {
    const bool vcpu = where == Where::kVcpu;
    require(
        (*sandbox)
            ->confine_thread(vcpu ? Sandbox::Role::kVcpu : Sandbox::Role::kDevice, vcpu ? "vCPU 7" : "a device thread")
            .has_value(),
        "confine_thread");
    action();
  });
  thread.join();
  ::_exit(kUnharmed);
}

#define EXPECT_FORBIDDEN(where, call, ...) \
  EXPECT_EXIT(confined(where, [] { __VA_ARGS__; }), ExitedWithCode(1), "the system call " call "\\(")
#define EXPECT_ALLOWED(where, ...) EXPECT_EXIT(confined(where, [] { __VA_ARGS__; }), ExitedWithCode(kUnharmed), "")

constexpr Where kBoth[] = {Where::kVcpu, Where::kMain};

TEST_F(SandboxTest, TheMessageNamesThreadAndCall) {
  EXPECT_EXIT(
      confined(Where::kVcpu, [] { (void)!::open("/etc/passwd", O_RDONLY); }), ExitedWithCode(1),
      "^rhea: vCPU 7 made the system call openat\\(257\\), which the sandbox forbids; the virtual machine ends\n$");
  EXPECT_EXIT(confined(Where::kMain, [] { ::syscall(SYS_open, "/etc/passwd", O_RDONLY); }), ExitedWithCode(1),
              "^rhea: a thread made the system call open\\(2\\), which");
  EXPECT_EXIT(confined(Where::kVcpu, [] { ::syscall(1000); }), ExitedWithCode(1), "system call unknown\\(1000\\)");
}

TEST_F(SandboxTest, NothingOfTheHostCanBeOpenedOrStarted) {
  static const pid_t other = ::getppid();
  for (const Where where : kBoth) {
    EXPECT_FORBIDDEN(where, "openat", (void)!::open("/dev/null", O_RDONLY));
    EXPECT_FORBIDDEN(where, "execve", ::execl("/bin/true", "true", nullptr));
    EXPECT_FORBIDDEN(where, "socket", ::socket(AF_INET, SOCK_STREAM, 0));
    EXPECT_FORBIDDEN(where, "ptrace", ::ptrace(PTRACE_ATTACH, 1, nullptr, nullptr));
    EXPECT_FORBIDDEN(where, "kill", ::kill(other, SIGTERM));
    EXPECT_FORBIDDEN(where, "tgkill", ::syscall(SYS_tgkill, other, other, SIGTERM));
    EXPECT_FORBIDDEN(where, "unlink", ::unlink("/nonexistent"));
    EXPECT_FORBIDDEN(where, "memfd_create", ::memfd_create("x", 0));
    EXPECT_FORBIDDEN(where, "process_vm_readv", ::syscall(SYS_process_vm_readv, 1, 0, 0, 0, 0, 0));
    EXPECT_FORBIDDEN(where, "io_uring_setup", ::syscall(SYS_io_uring_setup, 1, nullptr));
    EXPECT_FORBIDDEN(where, "bpf", ::syscall(SYS_bpf, 0, nullptr, 0));
    EXPECT_FORBIDDEN(where, "personality", ::syscall(SYS_personality, 0x0400000));
    EXPECT_FORBIDDEN(where, "ioctl", ::syscall(SYS_ioctl, 0, 0x5412 /* TIOCSTI */, "x"));
  }
  EXPECT_FORBIDDEN(Where::kMain, "clone", ::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
}

TEST_F(SandboxTest, NoNewExecutableMemory) {
  for (const Where where : kBoth) {
    EXPECT_FORBIDDEN(where, "mmap", ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_FORBIDDEN(where, "mmap",
                     ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    EXPECT_FORBIDDEN(where, "mprotect", static char page[8192];
                     ::mprotect(reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(page) + 4095) & ~uintptr_t{4095}),
                                4096, PROT_READ | PROT_EXEC));
    EXPECT_FORBIDDEN(where, "pkey_mprotect", ::syscall(SYS_pkey_mprotect, 0, 0, PROT_EXEC, -1));
    EXPECT_FORBIDDEN(where, "remap_file_pages", ::syscall(SYS_remap_file_pages, 0, 0, 0, 0, 0));
  }
}

// A 32-bit call from 64-bit code goes by another table of numbers: 11 is execve there, munmap here.
TEST_F(SandboxTest, CallsOfAnotherArchitectureAreForbidden) {
  for (const Where where : kBoth)
    EXPECT_EXIT(
        confined(
            where,
            [] {
              long result = 11;
              asm volatile("int $0x80" : "+a"(result) : "b"(0), "c"(0), "d"(0) : "memory", "r8", "r9", "r10", "r11");
            }),
        ExitedWithCode(1), "unknown of another architecture\\(11\\)");
}

TEST_F(SandboxTest, VcpuThreadsKeepLessThanTheOthers) {
  char byte = 0;
  EXPECT_FORBIDDEN(Where::kVcpu, "read", char got; (void)!::read(0, &got, 1));
  EXPECT_EXIT(confined(Where::kMain, [&byte] { (void)!::read(-1, &byte, 1); }), ExitedWithCode(kUnharmed), "");
  EXPECT_FORBIDDEN(Where::kVcpu, "clone", ::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
  // Signals are blocked while the C library starts a thread: no line.
  EXPECT_EXIT(confined(Where::kVcpu, [] { std::thread([] {}).join(); }), KilledBySignal(SIGSYS), "");
  EXPECT_FORBIDDEN(Where::kVcpu, "seccomp", ::syscall(SYS_seccomp, 0, 0, nullptr));
  EXPECT_FORBIDDEN(Where::kVcpu, "rt_sigaction", ::signal(SIGSYS, SIG_IGN));
}

TEST_F(SandboxTest, ConnectionsAreAllowedWhereAsked) {
  EXPECT_FORBIDDEN(Where::kMain, "accept4", ::accept4(-1, nullptr, nullptr, 0));
  EXPECT_EXIT(confined(Where::kMain, [] { ::accept4(-1, nullptr, nullptr, 0); }, {.connections = true}),
              ExitedWithCode(kUnharmed), "");
  EXPECT_EXIT(confined(Where::kVcpu, [] { ::accept4(-1, nullptr, nullptr, 0); }, {.connections = true}),
              ExitedWithCode(1), "accept4");
  EXPECT_EXIT(confined(Where::kMain, [] { ::socket(AF_UNIX, SOCK_STREAM, 0); }, {.connections = true}),
              ExitedWithCode(1), "socket");
}

// Only the network's own thread, which nothing narrows down.
TEST_F(SandboxTest, NetworkThreadsReachTheNetworkAndNothingElse) {
  const auto with_network = [](Where where, const std::function<void()>& action) {
    confined(where, action, {.network = true});
  };
  EXPECT_EXIT(with_network(Where::kMain, [] { require(::socket(AF_INET, SOCK_DGRAM, 0) >= 0, "socket"); }),
              ExitedWithCode(kUnharmed), "");
  EXPECT_EXIT(with_network(Where::kMain, [] { require(::socket(AF_UNIX, SOCK_STREAM, 0) < 0, "socket"); }),
              ExitedWithCode(kUnharmed), "");
  EXPECT_EXIT(with_network(Where::kMain, [] { ::socket(AF_NETLINK, SOCK_RAW, 0); }), ExitedWithCode(1), "socket");
  EXPECT_EXIT(with_network(Where::kMain, [] { (void)!::open("/tmp/x", O_WRONLY | O_CREAT, 0600); }), ExitedWithCode(1),
              "openat");
  EXPECT_EXIT(with_network(Where::kDevice, [] { ::socket(AF_INET, SOCK_DGRAM, 0); }), ExitedWithCode(1),
              "^rhea: a device thread made the system call socket");
  EXPECT_EXIT(with_network(Where::kDevice, [] { (void)!::open("/dev/null", O_RDONLY); }), ExitedWithCode(1), "openat");
  EXPECT_EXIT(with_network(Where::kVcpu, [] { ::socket(AF_INET, SOCK_DGRAM, 0); }), ExitedWithCode(1), "socket");
}

TEST_F(SandboxTest, FilesAreKeptFromThreadsThatNeedFewOfThem) {
  const auto child = [] {
    static constexpr const char* kReadable[] = {"/proc/self/exe", "/nonexistent"};
    const auto confined = Sandbox::confine_files(kReadable);
    if (!confined) ::_exit(confined.error().code() == ErrorCode::kUnsupported ? kUnharmed : 99);
    require(::open("/proc/self/exe", O_RDONLY) >= 0, "what was named can be read");
    require(::open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES, "another file");
    require(::open("/tmp", O_RDONLY | O_DIRECTORY) < 0 && errno == EACCES, "a directory");
    require(::open("/tmp/rhea-sandbox-test", O_WRONLY | O_CREAT, 0600) < 0 && errno == EACCES, "a new file");
    std::thread([] { require(::open("/etc/passwd", O_RDONLY) < 0, "from a later thread"); }).join();
    ::_exit(kUnharmed);
  };
  EXPECT_EXIT(child(), ExitedWithCode(kUnharmed), "");
}

// What runs of the C library in vCPU threads, at sizes that go to the kernel.
TEST_F(SandboxTest, VcpuThreadsMayAllocateWaitAndPrint) {
  EXPECT_ALLOWED(
      Where::kVcpu, std::vector<std::vector<char>> blocks; for (size_t i = 0; i < 64; ++i) {
        blocks.emplace_back(size_t{1} << (10 + i % 14), 'x');
        blocks[i / 2].resize(blocks[i / 2].size() * 3);
        if (i % 3 == 0) blocks[i / 3] = {};
      });
  EXPECT_ALLOWED(Where::kVcpu, std::mutex mutex; std::condition_variable changed; std::unique_lock lock(mutex);
                 changed.wait_for(lock, std::chrono::milliseconds(5)));
  EXPECT_ALLOWED(Where::kVcpu, timespec now; clock_gettime(CLOCK_REALTIME, &now); (void)!::write(2, "x", 1));
}

TEST_F(SandboxTest, ThreadsStartedLaterAreConfinedToo) {
  EXPECT_ALLOWED(Where::kMain, std::thread([] { pthread_setname_np(pthread_self(), "later"); }).join());
  EXPECT_FORBIDDEN(Where::kMain, "openat", std::thread([] { (void)!::open("/dev/null", O_RDONLY); }).join());
}

// ... and those that there were: one waits while the sandbox closes.
TEST_F(SandboxTest, ThreadsStartedBeforeAreConfinedToo) {
  const auto child = [] {
    std::mutex mutex;
    mutex.lock();
    std::thread waiting([&mutex] {
      mutex.lock();
      (void)!::open("/dev/null", O_RDONLY);
    });
    const auto sandbox = Sandbox::create({});
    require(sandbox && (*sandbox)->confine_process(), "confine");
    mutex.unlock();
    waiting.join();
    ::_exit(kUnharmed);
  };
  EXPECT_EXIT(child(), ExitedWithCode(1), "openat");
}

// Our own bugs still end as they do without a sandbox: with their signal, and a core.
TEST_F(SandboxTest, FaultsAndAbortsKeepTheirSignals) {
  for (const Where where : kBoth) {
    EXPECT_EXIT(confined(where, [] { std::abort(); }), KilledBySignal(SIGABRT), "");
    EXPECT_EXIT(confined(where,
                         [] {
                           ::signal(SIGSEGV, SIG_DFL);
                           *static_cast<volatile int*>(nullptr) = 0;
                         }),
                KilledBySignal(SIGSEGV), "");
  }
}

}  // namespace
}  // namespace rhea::sandbox
