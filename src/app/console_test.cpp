// SPDX-License-Identifier: Apache-2.0
// Console and terminal against pipes, files and pseudo-terminals.
#include "app/console.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

namespace rhea::app {
namespace {

// A guest that takes at most `capacity` bytes until it is emptied.
class FakeReceiver final : public devices::CharReceiver {
 public:
  size_t receive_capacity() const override { return capacity - received.size(); }
  size_t receive(std::span<const std::byte> data) override {
    size_t count = std::min(data.size(), receive_capacity());
    for (size_t i = 0; i < count; ++i) received.push_back(static_cast<char>(data[i]));
    return count;
  }
  size_t capacity = 16;
  std::string received;
};

struct Pipe {
  Pipe() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    reading.reset(ends[0]);
    writing.reset(ends[1]);
  }
  base::UniqueFd reading, writing;
};

void put(int fd, std::string_view text) {
  ASSERT_EQ(write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}
std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

class ConsoleTest : public testing::Test {
 protected:
  ConsoleTest() : loop_(std::move(*base::EventLoop::create())) { signal(SIGPIPE, SIG_IGN); }
  void spin(int rounds = 5) {
    for (int i = 0; i < rounds; ++i) loop_->run_once(10);
  }
  std::unique_ptr<base::EventLoop> loop_;
  FakeReceiver receiver_;
};

TEST_F(ConsoleTest, InputWaitsForTheGuest) {
  Pipe input, output;
  auto console = Console::create(*loop_, {.input_fd = input.reading.get(), .output_fd = output.writing.get()});
  ASSERT_TRUE(console);
  put(input.writing.get(), "0123456789abcdefghij");
  (*console)->set_receiver(&receiver_);
  spin();
  EXPECT_EQ(receiver_.received, "0123456789abcdef");
  receiver_.received.clear();
  (*console)->on_receive_ready();
  spin();
  EXPECT_EQ(receiver_.received, "ghij");
  input.writing.reset();  // end of input is no reason to spin or to stop
  spin();
}

TEST_F(ConsoleTest, InputFromAFile) {
  std::string path = (std::filesystem::temp_directory_path() / "rhea-console-XXXXXX").string();
  base::UniqueFd file(mkstemp(path.data()));
  std::string content;
  for (int i = 0; i < 3000; ++i) content += std::to_string(i) + "\n";
  put(file.get(), content);
  lseek(file.get(), 0, SEEK_SET);
  Pipe output;
  auto console = Console::create(*loop_, {.input_fd = file.get(), .output_fd = output.writing.get()});
  ASSERT_TRUE(console) << console.error().to_string();
  receiver_.capacity = content.size();
  (*console)->set_receiver(&receiver_);
  spin(50);
  EXPECT_EQ(receiver_.received, content);
  unlink(path.c_str());
}

TEST_F(ConsoleTest, EscapeKeys) {
  Pipe input, output;
  int quits = 0;
  auto console = Console::create(
      *loop_, {.input_fd = input.reading.get(), .output_fd = output.writing.get(), .escape_keys = true, .on_quit = [&] {
                 ++quits;
               }});
  ASSERT_TRUE(console);
  (*console)->set_receiver(&receiver_);
  put(input.writing.get(),
      "a\x01\x01"
      "b\x01"
      "qc\x01");
  spin();
  EXPECT_EQ(receiver_.received,
            "a\x01"
            "bc");
  put(input.writing.get(), "h");
  spin();
  char text[256] = {};
  EXPECT_GT(read(output.reading.get(), text, sizeof text - 1), 0);
  EXPECT_NE(std::string_view(text).find("Ctrl-A x"), std::string_view::npos);
  EXPECT_EQ(quits, 0);
  put(input.writing.get(), "\x01x");
  spin();
  EXPECT_EQ(quits, 1);
}

TEST_F(ConsoleTest, WithoutEscapeKeysEveryByteIsTheGuests) {
  Pipe input, output;
  auto console = Console::create(*loop_, {.input_fd = input.reading.get(), .output_fd = output.writing.get()});
  ASSERT_TRUE(console);
  (*console)->set_receiver(&receiver_);
  put(input.writing.get(), "\x01x\x01h");
  spin();
  EXPECT_EQ(receiver_.received, "\x01x\x01h");
}

TEST_F(ConsoleTest, NoOutputIsLostToASlowReader) {
  Pipe output;
  std::string expected, got;
  std::thread reader([&] {
    char buffer[1000];
    while (ssize_t count = read(output.reading.get(), buffer, sizeof buffer)) {
      got.append(buffer, static_cast<size_t>(count));
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  {
    auto console = Console::create(*loop_, {.output_fd = output.writing.get()});
    ASSERT_TRUE(console);
    for (int i = 0; i < 100'000; ++i) {
      std::string line = std::to_string(i) + "\n";
      expected += line;
      (*console)->write(bytes(line));
    }
  }
  output.writing.reset();
  reader.join();
  EXPECT_EQ(got, expected);
}

TEST_F(ConsoleTest, LoopWritesTheRestWhenTheReaderIsReady) {
  Pipe output;
  auto console = Console::create(*loop_, {.output_fd = output.writing.get()});
  ASSERT_TRUE(console);
  std::string text(100'000, 'x');  // more than a pipe holds
  (*console)->write(bytes(text));
  size_t total = 0;
  char buffer[4096];
  for (int i = 0; i < 1000 && total < text.size(); ++i) {
    total += static_cast<size_t>(std::max<ssize_t>(0, read(output.reading.get(), buffer, sizeof buffer)));
    loop_->run_once(0);
  }
  EXPECT_EQ(total, text.size());
}

TEST_F(ConsoleTest, AStuckReaderHoldsNobodyUpForEver) {
  Pipe output;
  auto console = Console::create(*loop_, {.output_fd = output.writing.get()});
  ASSERT_TRUE(console);
  std::thread guest([&] {
    std::string text(1'000'000, 'x');
    (*console)->write(bytes(text));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  (*console)->stop_waiting();
  guest.join();
  output.reading.reset();  // and a reader that is gone is no error
  (*console)->write(bytes("more"));
}

class TerminalTest : public testing::Test {
 protected:
  TerminalTest() {
    int master = -1, slave = -1;
    EXPECT_EQ(openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
    master_.reset(master);
    slave_.reset(slave);
  }
  bool raw() const {
    termios now{};
    EXPECT_EQ(tcgetattr(slave_.get(), &now), 0);
    return !(now.c_lflag & (ECHO | ICANON | ISIG));
  }
  base::UniqueFd master_, slave_;
};

TEST_F(TerminalTest, IsRestored) {
  EXPECT_FALSE(raw());
  {
    auto terminal = RawTerminal::create(slave_.get());
    ASSERT_TRUE(terminal);
    EXPECT_TRUE(raw());
  }
  EXPECT_FALSE(raw());
}

// No handler runs at SIGKILL: this is the guardian's case.
TEST_F(TerminalTest, IsRestoredAfterSuddenDeath) {
  for (int signo : {SIGKILL, SIGSEGV, SIGABRT}) {
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto terminal = RawTerminal::create(slave_.get());
      if (terminal) raise(SIGSTOP);
      _exit(1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, WUNTRACED), child);
    ASSERT_TRUE(WIFSTOPPED(status));
    EXPECT_TRUE(raw());
    kill(child, signo);
    kill(child, SIGCONT);
    waitpid(child, &status, 0);
    bool restored = false;
    for (int i = 0; i < 200 && !restored; ++i) {
      restored = !raw();
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_TRUE(restored) << signo;
  }
}

TEST(Terminal, PipesAreNone) {
  Pipe pipe;
  EXPECT_FALSE(RawTerminal::create(pipe.reading.get()));
}

}  // namespace
}  // namespace rhea::app
