// SPDX-License-Identifier: Apache-2.0
// The command line: what it accepts, and the one line it answers to mistakes.
#include "app/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <initializer_list>

#include "sandbox/sandbox.h"

namespace rhea::app {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

Result<Invocation> parse(std::initializer_list<const char*> arguments) {
  std::vector<const char*> argv = {"rhea"};
  argv.insert(argv.end(), arguments);
  argv.push_back(nullptr);
  return parse_command_line(static_cast<int>(argv.size()) - 1, argv.data());
}
std::string error_of(std::initializer_list<const char*> arguments) {
  auto result = parse(arguments);
  return result ? "accepted" : result.error().to_string();
}

TEST(Options, RunWithEverything) {
  auto result = parse({"run",
                       "--kernel",
                       "k",
                       "--initrd",
                       "a",
                       "--initrd",
                       "b",
                       "--append",
                       "console=ttyS0 -x",
                       "-m",
                       "2G",
                       "-c",
                       "3",
                       "--cpu",
                       "x86-64-v2",
                       "--engine",
                       "dbt",
                       "--name",
                       "vm",
                       "--console",
                       "file:/x/y",
                       "--no-reboot",
                       "--trace",
                       "irq",
                       "--stats",
                       "--debug-exit",
                       "--debugcon",
                       "stdio",
                       "--gdb",
                       "tcp:localhost:1234",
                       "--gdb-wait",
                       "--clock",
                       "host",
                       "--dbt-opt=0",
                       "--dbt-cache",
                       "1M"});
  ASSERT_TRUE(result) << result.error().to_string();
  ASSERT_TRUE(result->run);
  const RunOptions& run = *result->run;
  EXPECT_EQ(run.kernel, "k");
  EXPECT_EQ(run.initrds, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(run.command_line, "console=ttyS0 -x");
  EXPECT_EQ(run.memory_bytes, uint64_t{2} << 30);
  EXPECT_EQ(run.cpu_count, 3u);
  EXPECT_EQ(run.cpu_model, "x86-64-v2");
  EXPECT_EQ(run.console, ConsoleKind::kFile);
  EXPECT_EQ(run.console_path, "/x/y");
  EXPECT_FALSE(run.reboot);
  EXPECT_TRUE(run.statistics && run.debug_exit && run.gdb_wait);
  EXPECT_EQ(run.clock, ClockKind::kHost);
  EXPECT_EQ(run.dbt_opt, 0);
  EXPECT_EQ(run.dbt_verify, 0u);
  EXPECT_EQ(run.dbt_cache_bytes, 1u << 20);
}

TEST(Options, DefaultsAndLongForms) {
  auto result = parse({"run", "--kernel=k", "--memory=64M", "--append=-v"});
  ASSERT_TRUE(result) << result.error().to_string();
  EXPECT_EQ(result->run->memory_bytes, 64u << 20);
  EXPECT_EQ(result->run->command_line, "-v");
  EXPECT_EQ(result->run->cpu_count, 1u);
  EXPECT_TRUE(result->run->reboot);
}

TEST(Options, NetworkCards) {
  using Kind = machine::NetworkOptions::Kind;
  EXPECT_EQ(parse({"run", "--kernel=k"})->run->networks.size(), 1u);
  EXPECT_TRUE(parse({"run", "--kernel=k", "--net", "none"})->run->networks.empty());
  auto result = parse({"run", "--kernel=k", "--net", "tap=tap0,mac=52:48:45:01:02:03", "--net",
                       "user,mtu=9000,queues=4,link=down", "--net", "bridge=br0", "--net", "user", "--forward",
                       "tcp:2222:22", "--capture", "f"});
  ASSERT_TRUE(result) << result.error().to_string();
  const auto& networks = result->run->networks;
  ASSERT_EQ(networks.size(), 4u);
  EXPECT_EQ(networks[0].kind, Kind::kTap);
  EXPECT_EQ(networks[0].interface, "tap0");
  EXPECT_EQ(networks[0].mac, (std::array<uint8_t, 6>{0x52, 0x48, 0x45, 1, 2, 3}));
  EXPECT_EQ(networks[1].kind, Kind::kUser);
  EXPECT_EQ(networks[1].mtu, 9000);
  EXPECT_EQ(networks[1].queues, 4u);
  EXPECT_FALSE(networks[1].link_up);
  EXPECT_EQ(networks[2].kind, Kind::kBridge);
  EXPECT_EQ(networks[2].interface, "br0");
  EXPECT_EQ(first_user_network(networks), &networks[1]);
  EXPECT_NE(machine::mac_of(networks[2], 2), machine::mac_of(networks[3], 3));
}

TEST(Options, NetworkMistakes) {
  const auto error = [](std::initializer_list<const char*> nets) {
    std::vector<const char*> arguments = {"rhea", "run", "--kernel=k"};
    for (const char* net : nets) arguments.insert(arguments.end(), {"--net", net});
    const auto result = parse_command_line(static_cast<int>(arguments.size()), arguments.data());
    return result ? std::string("no error") : result.error().to_string();
  };
  EXPECT_THAT(error({"usr"}), HasSubstr("did you mean 'user'?"));
  EXPECT_THAT(error({"wifi"}), HasSubstr("user, tap=NAME, bridge=NAME, none"));
  EXPECT_THAT(error({"user,macc=1"}), HasSubstr("did you mean 'mac'?"));
  EXPECT_THAT(error({"user,mac=52:48:45:01:02"}), HasSubstr("is no address of a card"));
  EXPECT_THAT(error({"user,mac=53:48:45:01:02:03"}), HasSubstr("first byte is odd"));
  EXPECT_THAT(error({"user,mac=zz:48:45:01:02:03"}), HasSubstr("is no address of a card"));
  EXPECT_THAT(error({"user,mtu=100"}), HasSubstr("out of range"));
  EXPECT_THAT(error({"user,queues=17"}), HasSubstr("out of range"));
  EXPECT_THAT(error({"user,link=maybe"}), HasSubstr("none of up, down"));
  EXPECT_THAT(error({"user", "none"}), HasSubstr("--net none is no network"));
  EXPECT_THAT(error({"user,mac=52:48:45:01:02:03", "user,mac=52:48:45:01:02:03"}), HasSubstr("same address"));
  EXPECT_THAT(error_of({"run", "--kernel=k", "--net", "tap=t", "--forward", "tcp:1:2"}),
              HasSubstr("--forward needs --net user"));
  EXPECT_THAT(error_of({"run", "--kernel=k", "--net", "none", "--capture", "f"}),
              HasSubstr("--capture needs a network"));
}

TEST(Options, VerifyTakesAnInterval) {
  auto result = parse({"run", "--kernel=k", "--dbt-verify=1000"});
  ASSERT_TRUE(result) << result.error().to_string();
  EXPECT_EQ(result->run->dbt_verify, 1000u);
}

TEST(Options, BalloonsHaveSizes) {
  EXPECT_TRUE(parse({"run", "--kernel=k"})->run->balloon);
  EXPECT_FALSE(parse({"run", "--kernel=k", "--balloon=off"})->run->balloon);
  EXPECT_EQ(parse({"run", "--kernel=k", "--balloon=128M"})->run->balloon_size_bytes, 128u << 20);
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--balloon", "1G"}), HasSubstr("the guest has 512 MiB"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--balloon", "red"}), HasSubstr("--balloon takes a size"));
}

TEST(Options, TheConsoleMayBeVirtio) {
  EXPECT_FALSE(parse({"run", "--kernel=k"})->run->virtio_console);
  const auto result = parse({"run", "--kernel=k", "--console-device=virtio", "--port", "a.b=file:/tmp/x=y"});
  ASSERT_TRUE(result) << result.error().to_string();
  EXPECT_TRUE(result->run->virtio_console);
  ASSERT_EQ(result->run->ports.size(), 1u);
  EXPECT_EQ(result->run->ports[0].name, "a.b");
  EXPECT_EQ(result->run->ports[0].path, "/tmp/x=y");
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--port", "file:/x"}), HasSubstr("NAME=file:PATH"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--console-device", "vga"}), HasSubstr("serial, virtio"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--console-device", "virtio", "--clock", "instructions"}),
              HasSubstr("deterministic"));
}

TEST(Options, TransportsHaveNames) {
  using machine::VirtioTransport;
  EXPECT_EQ(parse({"run", "--kernel=k"})->run->transport, VirtioTransport::kPci);
  EXPECT_EQ(parse({"run", "--kernel=k", "--transport=mmio"})->run->transport, VirtioTransport::kMmio);
  EXPECT_EQ(parse({"run", "--kernel=k", "--transport=mmio-cmdline"})->run->transport,
            VirtioTransport::kMmioCommandLine);
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--transport", "isa"}),
              HasSubstr("pci, pci-ports, mmio, mmio-cmdline"));
}

TEST(Options, SandboxIsOnUnlessTurnedOff) {
  EXPECT_EQ(parse({"run", "--kernel=k"})->run->sandbox, sandbox::Sandbox::built());
  EXPECT_FALSE(parse({"run", "--kernel=k", "--sandbox=off"})->run->sandbox);
  EXPECT_FALSE(parse({"run", "--kernel=k", "--dbt-verify=1000"})->run->sandbox);
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--sandbox", "maybe"}), HasSubstr("one of: on, off"));
  if (sandbox::Sandbox::built()) {
    EXPECT_TRUE(parse({"run", "--kernel=k", "--sandbox=on"})->run->sandbox);
    EXPECT_THAT(error_of({"run", "--kernel", "k", "--sandbox", "on", "--dbt-verify", "9"}), HasSubstr("no sandbox"));
  } else {
    EXPECT_THAT(error_of({"run", "--kernel", "k", "--sandbox", "on"}), HasSubstr("sanitizers"));
  }
}

// An argument that looks like an option is still the value of the option before it.
TEST(Options, CommandLineMayStartWithADash) {
  auto result = parse({"run", "--kernel", "k", "--append", "--verbose"});
  ASSERT_TRUE(result) << result.error().to_string();
  EXPECT_EQ(result->run->command_line, "--verbose");
}

TEST(Options, MistakesAreOneLineWithTheNearestRightWord) {
  EXPECT_EQ(error_of({}), "no command given; `rhea --help` shows all");
  EXPECT_EQ(error_of({"runn"}), "unknown command 'runn' (did you mean 'run'?)");
  EXPECT_EQ(error_of({"run"}), "nothing to run: name a system or a file (rhea run debian), or use --kernel FILE");
  EXPECT_EQ(error_of({"run", "--kernel", "k", "--memroy", "1G"}),
            "unknown option '--memroy' (did you mean '--memory'?)");
  EXPECT_EQ(error_of({"run", "--kernal=k"}), "unknown option '--kernal' (did you mean '--kernel'?)");
  EXPECT_EQ(error_of({"run", "k", "extra"}), "unexpected argument 'extra'");
  EXPECT_EQ(error_of({"--verison"}), "unknown option '--verison' (did you mean '--version'?)");
  EXPECT_THAT(error_of({"run", "--kernel"}), HasSubstr("--kernel"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "-m", "lots"}),
              AllOf(HasSubstr("--memory takes a size"), HasSubstr("'lots'")));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "-c", "0"}), HasSubstr("--cpus takes a number from 1 to 255"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "-c", "256"}), HasSubstr("--cpus takes a number from 1 to 255"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "-c", "-3"}), HasSubstr("--cpus"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "-c", "99999999999999999999999"}), HasSubstr("--cpus"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--engine", "kvm", "--dbt-opt", "0"}), HasSubstr("has no translator"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--engine", "dtb"}), HasSubstr("did you mean 'dbt'?"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--console", "sdtio"}), HasSubstr("did you mean 'stdio'?"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--clock", "sundial"}), HasSubstr("host, instructions"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--gdb-wait"}), HasSubstr("--gdb-wait needs --gdb"));
  EXPECT_THAT(error_of({"run", "--kernel", "k", "--kernel", "l"}), HasSubstr("--kernel"));
  for (auto arguments :
       {std::initializer_list<const char*>{"run", "-m", "lots"}, {"help", "nothing"}, {"run", "--", "x"}})
    EXPECT_THAT(error_of(arguments), Not(HasSubstr("\n")));
}

TEST(Options, HelpShowsAllOptions) {
  for (auto arguments : {std::initializer_list<const char*>{"run", "--help"}, {"help", "run"}}) {
    auto result = parse(arguments);
    ASSERT_TRUE(result);
    EXPECT_FALSE(result->run);
    for (const char* option : {"--kernel", "--initrd", "--append", "--memory", "--cpus", "--cpu", "--engine", "--name",
                               "--console", "--no-reboot", "--trace", "--stats", "--gdb", "--debug-exit", "--debugcon",
                               "--clock", "--sandbox", "--dbt-opt", "--dbt-verify"})
      EXPECT_THAT(result->print, HasSubstr(option));
  }
  for (auto arguments : {std::initializer_list<const char*>{"--help"}, {"help"}, {"-h"}}) {
    auto result = parse(arguments);
    ASSERT_TRUE(result);
    EXPECT_THAT(result->print, AllOf(HasSubstr("run"), HasSubstr("version")));
  }
  EXPECT_THAT(parse({"version"})->print, HasSubstr("rhea 0."));
  EXPECT_EQ(parse({"--version"})->print, parse({"version"})->print);
  EXPECT_EQ(error_of({"help", "rnu"}), "unknown command 'rnu' (did you mean 'run'?)");
}

}  // namespace
}  // namespace rhea::app
