// SPDX-License-Identifier: Apache-2.0
// What the look at the host says of hosts that are made up.
#include "engine/kvm/preflight.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "testing/scratch_folder.h"

namespace rhea::engine_kvm {
namespace {

using Verdict = Preflight::Verdict;

class PreflightTest : public ::testing::Test {
 protected:
  HostFiles host(const std::string& flags, bool device, const std::string& module = {}) {
    const std::string root = folder_.path().string();
    HostFiles files{.device = root + "/kvm", .cpuinfo = root + "/cpuinfo", .modules = root + "/modules"};
    std::ofstream(files.cpuinfo) << "processor\t: 0\nflags\t\t: fpu " << flags << " sse\n";
    if (device) std::ofstream(files.device) << "not a device";
    if (!module.empty()) std::filesystem::create_directories(files.modules + "/" + module);
    return files;
  }
  rhea::testing::ScratchFolder folder_;
};

TEST_F(PreflightTest, NoDeviceAndNoExtensions) {
  const Preflight found = examine_host(host("vme", false));
  EXPECT_EQ(found.verdict, Verdict::kAbsent);
  EXPECT_NE(found.reason.find("no virtualization extensions"), std::string::npos) << found.reason;
  EXPECT_NE(found.remedy.find("firmware"), std::string::npos) << found.remedy;
}

TEST_F(PreflightTest, NoDeviceButExtensionsNamesTheModule) {
  EXPECT_NE(examine_host(host("vmx", false)).remedy.find("kvm_intel"), std::string::npos);
  EXPECT_NE(examine_host(host("svm", false)).remedy.find("kvm_amd"), std::string::npos);
}

TEST_F(PreflightTest, SomethingElseByThatNameIsNotUsable) {
  const Preflight found = examine_host(host("vmx", true));
  EXPECT_EQ(found.verdict, Verdict::kUnusable);
  EXPECT_FALSE(found.usable());
}

TEST_F(PreflightTest, NoPermissionSaysWhatWouldHelp) {
  if (geteuid() == 0) GTEST_SKIP() << "root may open everything";
  const HostFiles files = host("vmx", true);
  chmod(files.device.c_str(), 0);
  const Preflight found = examine_host(files);
  EXPECT_EQ(found.verdict, Verdict::kNotPermitted);
  EXPECT_FALSE(found.remedy.empty());
}

// The host that the tests run on: whatever it has, a verdict, and never "hardware" without the processor's flag.
TEST_F(PreflightTest, ThisHost) {
  const Preflight found = examine_host();
  EXPECT_FALSE(found.reason.empty());
  HostFiles without_flag = host("vme", false);
  without_flag.device = "/dev/kvm";
  EXPECT_NE(examine_host(without_flag).verdict, Verdict::kHardware);
}

}  // namespace
}  // namespace rhea::engine_kvm
