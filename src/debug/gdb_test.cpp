// SPDX-License-Identifier: Apache-2.0
// The real gdb, through real sockets, against a machine that executes NOPs on a thread.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "debug/gdb_server.h"
#include "debug/target_fake.h"

namespace rhea::debug {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

class RunningTarget final : public FakeTarget {
 public:
  RunningTarget() : FakeTarget(1), thread_([this] { work(); }) {}
  ~RunningTarget() override {
    {
      std::lock_guard lock(mutex_);
      quit_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  void set_server(GdbServer* server) {
    std::lock_guard lock(mutex_);
    server_ = server;
  }

  void stop() override {
    std::lock_guard lock(mutex_);
    stop_requested_ = true;
    wake_.notify_all();
  }
  void resume() override { go(false); }
  void step(unsigned) override { go(true); }
  void kill() override { killed = true; }
  bool running() {
    std::lock_guard lock(mutex_);
    return running_;
  }
  std::atomic<bool> killed{false};

 private:
  void go(bool single_step) {
    std::lock_guard lock(mutex_);
    fake_vcpu().single_step = single_step;
    running_ = true;
    wake_.notify_all();
  }
  void work() {
    std::unique_lock lock(mutex_);
    while (!quit_) {
      if (stop_requested_) {
        stop_requested_ = running_ = false;
        if (server_) server_->on_stopped({.reason = StopEvent::Reason::kInterrupted});
      } else if (!running_) {
        wake_.wait(lock);
      } else if (fake_vcpu().execute_one()) {
        running_ = false;
        if (server_) server_->on_stopped({.reason = StopEvent::Reason::kDebug});
      } else {
        wake_.wait_for(lock, 10us);
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  GdbServer* server_ = nullptr;
  bool quit_ = false, running_ = true, stop_requested_ = false;
  std::thread thread_;
};

class GdbTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/rhea-gdb-XXXXXX";
    directory_ = mkdtemp(pattern);
    loop_ = base::EventLoop::create().value();
  }
  void TearDown() override {
    target_.set_server(nullptr);
    server_.reset();
    std::filesystem::remove_all(directory_);
  }
  void serve(const std::string& address) {
    auto server = GdbServer::create(*loop_, target_, address);
    ASSERT_TRUE(server) << server.error().to_string();
    server_ = std::move(*server);
    target_.set_server(server_.get());
  }
  // Runs the loop until `done` or ten seconds have passed.
  void loop_until(const std::function<bool()>& done) {
    auto deadline = std::chrono::steady_clock::now() + 10s;
    while (!done() && std::chrono::steady_clock::now() < deadline) loop_->run_once(10);
    EXPECT_TRUE(done());
  }

  std::string directory_;
  std::unique_ptr<base::EventLoop> loop_;
  RunningTarget target_;
  std::unique_ptr<GdbServer> server_;
};

// Runs gdb in batch mode with these commands and returns what it said.
std::string run_gdb(const std::string& directory, const std::string& commands, base::EventLoop& loop) {
  const std::string script = directory + "/script", log = directory + "/log";
  std::ofstream(script) << commands;
  pid_t child = fork();
  if (child == 0) {
    int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(fd, 1);
    dup2(fd, 2);
    setpgid(0, 0);
    execlp("gdb", "gdb", "-nx", "-nh", "-batch", "-x", script.c_str(), nullptr);
    _exit(127);
  }
  int status = 0;
  auto deadline = std::chrono::steady_clock::now() + 60s;
  while (waitpid(child, &status, WNOHANG) == 0) {
    loop.run_once(10);
    if (std::chrono::steady_clock::now() > deadline) {
      kill(child, SIGKILL);
      ADD_FAILURE() << "gdb hangs";
      waitpid(child, &status, 0);
      break;
    }
  }
  loop.run_once(0);
  std::ifstream in(log);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  return WIFEXITED(status) && WEXITSTATUS(status) == 127 ? "gdb is not installed" : text;
}

TEST_F(GdbTest, RealGdbDebugsTheMachine) {
  serve("unix:" + directory_ + "/gdb");
  const std::string output = run_gdb(directory_,
                                     "set confirm off\nset pagination off\nset tcp connect-timeout 10\n"
                                     "target remote " +
                                         directory_ +
                                         "/gdb\n"
                                         "info registers rip\n"
                                         "set $rip = 0x2000\nset $rax = 0x123456789abcdef0\nset $xmm3.uint128 = 77\n"
                                         "p/x $rax\np $xmm3.v4_int32\np $cr0\np $ftag\n"
                                         "set {long}0x3000 = 0x1122334455667788\nx/gx 0x3000\nx/i $rip\n"
                                         "break *0x2010\ncontinue\np $rip\n"
                                         "stepi\np $rip\nstepi\np $rip\n"
                                         "hbreak *0x2020\ncontinue\np $rip\n"
                                         "info threads\nmonitor stats\ndelete\ndetach\n",
                                     *loop_);
  if (output == "gdb is not installed") GTEST_SKIP() << output;
  EXPECT_THAT(output, HasSubstr("$1 = 0x123456789abcdef0"));
  EXPECT_THAT(output, HasSubstr("$2 = {77, 0, 0, 0}"));
  EXPECT_THAT(output, HasSubstr("$3 = 1610612752"));
  EXPECT_THAT(output, HasSubstr("0x3000:\t0x1122334455667788"));
  EXPECT_THAT(output, HasSubstr("=> 0x2000:\tnop"));
  EXPECT_THAT(output, HasSubstr("Breakpoint 1, 0x0000000000002010"));
  EXPECT_THAT(output, HasSubstr("$5 = (void (*)()) 0x2010"));
  EXPECT_THAT(output, HasSubstr("$6 = (void (*)()) 0x2011"));
  EXPECT_THAT(output, HasSubstr("$7 = (void (*)()) 0x2012"));
  EXPECT_THAT(output, HasSubstr("$8 = (void (*)()) 0x2020"));
  EXPECT_THAT(output, HasSubstr("vCPU 0"));
  EXPECT_THAT(output, HasSubstr("no statistics"));
  EXPECT_THAT(output, HasSubstr("detached"));
  loop_until([&] { return !server_->connected() && target_.running(); });
  if (HasFailure()) std::puts(output.c_str());
}

TEST_F(GdbTest, TcpAndInterrupt) {
  serve("tcp:127.0.0.1:0");
  const std::string address = server_->address().substr(4);
  EXPECT_NE(address, "127.0.0.1:0");
  const std::string output =
      run_gdb(directory_,
              "set confirm off\nset pagination off\n"
              "target remote " +
                  address +
                  "\n"
                  "python\nimport threading, os, signal\n"
                  "threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\nend\n"
                  "continue\np $rip\nkill\n",
              *loop_);
  if (output == "gdb is not installed") GTEST_SKIP() << output;
  EXPECT_THAT(output, HasSubstr("SIGINT"));
  EXPECT_TRUE(target_.killed);
  if (HasFailure()) std::puts(output.c_str());
}

TEST_F(GdbTest, OneDebuggerAtATimeAndLostConnections) {
  const std::string path = directory_ + "/gdb";
  serve("unix:" + path);
  auto dial = [&] {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    path.copy(name.sun_path, sizeof name.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    return base::UniqueFd(fd);
  };
  base::UniqueFd first = dial();
  loop_until([&] { return server_->connected() && !target_.running(); });
  base::UniqueFd second = dial();
  char byte;
  loop_until([&] { return recv(second.get(), &byte, 1, MSG_DONTWAIT) == 0; });
  first.reset();
  loop_until([&] { return !server_->connected() && target_.running(); });
  base::UniqueFd third = dial();
  loop_until([&] { return server_->connected(); });
}

TEST_F(GdbTest, BadAddresses) {
  for (const char* address :
       {"", "tcp:", "tcp:1", "tcp:localhost:x", "tcp:localhost:99999", "unix:", "serial:/dev/ttyS0"}) {
    auto server = GdbServer::create(*loop_, target_, address);
    EXPECT_FALSE(server) << address;
  }
  EXPECT_FALSE(GdbServer::create(*loop_, target_, "unix:" + std::string(200, 'x')));
  EXPECT_FALSE(GdbServer::create(*loop_, target_, "unix:" + directory_ + "/no/such/folder"));
}

TEST_F(GdbTest, StaleSocketIsReplacedAndALiveOneIsNot) {
  const std::string path = directory_ + "/gdb";
  {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    path.copy(name.sun_path, sizeof name.sun_path - 1);
    ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    close(fd);
  }
  serve("unix:" + path);
  EXPECT_EQ(std::filesystem::status(path).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_FALSE(GdbServer::create(*loop_, target_, "unix:" + path));
  EXPECT_TRUE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace rhea::debug
