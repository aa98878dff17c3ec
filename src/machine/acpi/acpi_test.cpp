// SPDX-License-Identifier: Apache-2.0
// The tables are walked as a guest does (from the RSDP), and given to ACPICA's compiler where it is installed.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "machine/acpi/aml.h"
#include "machine/acpi/smbios.h"
#include "machine/acpi/tables.h"
#include "machine/boot/byte_view.h"

namespace rhea::machine {
namespace {

constexpr uint64_t kBase = 0xe0000;

PlatformDescription platform_of(unsigned cpus) {
  return {.cpu_count = cpus,
          .low_ram_bytes = 0xc0000000,
          .high_ram_bytes = uint64_t{5} << 30,
          .ecam_base = 0xe0000000,
          .mmio_low_start = 0xc0000000,
          .mmio_low_end = 0xe0000000,
          .mmio_high_start = 0xf0000000,
          .mmio_high_end = 0xfeb00000,
          .mmio64_start = uint64_t{16} << 30,
          .mmio64_end = uint64_t{48} << 30,
          .pm_base = 0x600,
          .virtio_mmio = {{0xfeb00000, 0x1000, 16}, {0xfeb01000, 0x1000, 17}},
          .name = "test"};
}

uint8_t sum(std::span<const std::byte> bytes) {
  uint8_t total = 0;
  for (std::byte byte : bytes) total = static_cast<uint8_t>(total + static_cast<uint8_t>(byte));
  return total;
}

std::string signature(const ByteView& view, uint64_t at, size_t length = 4) {
  auto bytes = view.slice(at, length);
  return bytes ? std::string(reinterpret_cast<const char*>(bytes->data()), length) : std::string();
}

// Every table reachable from the RSDP, by signature; fails on a wrong checksum.
std::map<std::string, std::vector<std::byte>> walk(const ByteImage& image) {
  std::map<std::string, std::vector<std::byte>> tables;
  ByteView view(image.span());
  EXPECT_EQ(signature(view, 0, 8), "RSD PTR ");
  EXPECT_EQ(sum(*view.slice(0, 20)), 0);
  EXPECT_EQ(sum(*view.slice(0, 36)), 0);
  auto take = [&](uint64_t address) {
    uint64_t at = address - kBase;
    auto bytes = view.slice(at, view.u32(at + 4));
    if (!bytes) {
      ADD_FAILURE() << "table outside the image at " << address;
      return std::string();
    }
    std::string name = signature(view, at);
    if (name != "FACS") {
      EXPECT_EQ(sum(*bytes), 0) << name;
    }
    tables[name].assign(bytes->begin(), bytes->end());
    return name;
  };
  EXPECT_EQ(take(view.u32(16)), "RSDT");
  EXPECT_EQ(take(view.u64(24)), "XSDT");
  ByteView xsdt(tables["XSDT"]), rsdt(tables["RSDT"]);
  for (uint64_t i = 0; 36 + 8 * i < xsdt.size(); ++i) {
    EXPECT_EQ(xsdt.u64(36 + 8 * i), rsdt.u32(36 + 4 * i));
    take(xsdt.u64(36 + 8 * i));
  }
  ByteView fadt(tables["FACP"]);
  EXPECT_EQ(take(fadt.u32(36)), "FACS");
  EXPECT_EQ(take(fadt.u32(40)), "DSDT");
  EXPECT_EQ(fadt.u64(140), fadt.u32(40));
  EXPECT_EQ(fadt.u32(36) % 64, 0u);
  return tables;
}

struct CommandResult {
  int status;
  std::string output;
};
CommandResult run(const std::string& command) {
  CommandResult result{-1, {}};
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return result;
  char buffer[512];
  while (size_t count = fread(buffer, 1, sizeof buffer, pipe)) result.output.append(buffer, count);
  int status = pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

TEST(AcpiTables, AreReachableAndSummed) {
  for (unsigned cpus : {1u, 2u, 64u, 300u}) {
    ByteImage image = build_acpi_tables(platform_of(cpus), kBase);
    EXPECT_LE(image.size(), 0x10000u);
    auto tables = walk(image);
    for (const char* name : {"RSDT", "XSDT", "FACP", "FACS", "DSDT", "APIC", "MCFG", "HPET"})
      EXPECT_TRUE(tables.contains(name)) << name;
  }
}

TEST(AcpiTables, MadtNamesEveryProcessorOnce) {
  auto tables = walk(build_acpi_tables(platform_of(300), kBase));
  ByteView madt(tables["APIC"]);
  std::map<uint32_t, int> ids;
  unsigned io_apics = 0, overrides = 0;
  uint64_t at = 44;
  while (at < madt.size()) {
    uint8_t type = madt.u8(at), length = madt.u8(at + 1);
    ASSERT_GE(length, 2);
    if (type == 0) ++ids[madt.u8(at + 3)];
    if (type == 9) ++ids[madt.u32(at + 4)];
    if (type == 1) ++io_apics;
    if (type == 2) ++overrides;
    at += length;
  }
  EXPECT_EQ(at, madt.size());
  EXPECT_EQ(ids.size(), 300u);
  EXPECT_EQ(ids.begin()->first, 0u);
  EXPECT_EQ(ids.rbegin()->first, 299u);
  EXPECT_EQ(io_apics, 1u);
  EXPECT_EQ(overrides, 2u);
}

// `iasl -d` must understand every table, and what it writes must compile again without an error.
TEST(AcpiTables, SurviveTheAcpicaCompiler) {
  if (run("command -v iasl").status != 0) GTEST_SKIP() << "iasl (acpica-tools) is not installed";
  std::string folder = (std::filesystem::temp_directory_path() / "rhea-acpi-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  for (unsigned cpus : {1u, 300u}) {
    for (const auto& [name, bytes] : walk(build_acpi_tables(platform_of(cpus), kBase))) {
      std::string base = folder + "/" + name;
      std::ofstream(base + ".dat", std::ios::binary)
          .write(reinterpret_cast<const char*>(bytes.data()), static_cast<long>(bytes.size()));
      CommandResult taken_apart = run("cd " + folder + " && iasl -d " + name + ".dat");
      EXPECT_EQ(taken_apart.status, 0) << taken_apart.output;
      EXPECT_EQ(taken_apart.output.find("Error"), std::string::npos) << taken_apart.output;
      EXPECT_EQ(taken_apart.output.find("Warning"), std::string::npos) << taken_apart.output;
      CommandResult built = run("cd " + folder + " && iasl -p again-" + name + " " + name + ".dsl");
      EXPECT_EQ(built.status, 0) << built.output;
      EXPECT_NE(built.output.find(" 0 Errors"), std::string::npos) << built.output;
      EXPECT_TRUE(built.output.find(" 0 Warnings") != std::string::npos || name != "DSDT") << built.output;
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(Aml, EncodesAsTheSpecificationSays) {
  auto hex = [](const aml::Term& term) {
    std::string text;
    for (std::byte byte : term.span()) {
      char digits[3];
      snprintf(digits, sizeof digits, "%02x", static_cast<unsigned>(byte));
      text += digits;
    }
    return text;
  };
  EXPECT_EQ(hex(aml::integer(0)), "00");
  EXPECT_EQ(hex(aml::integer(1)), "01");
  EXPECT_EQ(hex(aml::integer(0x80)), "0a80");
  EXPECT_EQ(hex(aml::integer(0x1234)), "0b3412");
  EXPECT_EQ(hex(aml::integer(0x12345678)), "0c78563412");
  EXPECT_EQ(hex(aml::integer(0x123456789a)), "0e9a78563412000000");
  EXPECT_EQ(hex(aml::eisa_id("PNP0A08")), "0c41d00a08");
  EXPECT_EQ(hex(aml::path("\\_SB.PCI0")), "5c2e5f53425f50434930");
  EXPECT_EQ(hex(aml::path("A.B.C")), "2f03415f5f5f425f5f5f435f5f5f");
  EXPECT_EQ(hex(aml::uuid("33db4d5b-1ff7-401c-9657-7441c03dd766")), "11130a105b4ddb33f71f1c4096577441c03dd766");
  // Lengths on both sides of the one- and two-byte forms: 0x3f is the largest in one byte.
  EXPECT_EQ(hex(aml::package({aml::Term(0x3d)})).substr(0, 6), "123f01");
  EXPECT_EQ(hex(aml::package({aml::Term(0x3e)})).substr(0, 8), "12410401");
}

TEST(Smbios, StructuresAreWholeAndBothEntriesAgree) {
  constexpr uint32_t kAt = 0xf0000;
  ByteImage image = build_smbios(platform_of(4), kAt);
  ByteView view(image.span());
  EXPECT_EQ(signature(view, 0, 5), "_SM3_");
  EXPECT_EQ(sum(*view.slice(0, view.u8(6))), 0);
  EXPECT_EQ(signature(view, 32, 4), "_SM_");
  EXPECT_EQ(sum(*view.slice(32, view.u8(37))), 0);
  EXPECT_EQ(signature(view, 32 + 16, 5), "_DMI_");
  EXPECT_EQ(sum(*view.slice(32 + 16, 15)), 0);
  uint64_t table = view.u64(16) - kAt;
  EXPECT_EQ(view.u32(32 + 0x18) - kAt, table);
  EXPECT_EQ(view.u32(12), view.u16(32 + 0x16));
  EXPECT_EQ(table + view.u32(12), view.size());

  std::vector<unsigned> types;
  unsigned count = 0;
  for (uint64_t at = table; at + 4 <= view.size(); ++count) {
    types.push_back(view.u8(at));
    uint64_t end = at + view.u8(at + 1);
    while (end + 1 < view.size() && view.u16(end) != 0) ++end;
    at = end + 2;
    if (types.back() == 127) EXPECT_EQ(at, view.size());
  }
  EXPECT_EQ(count, view.u16(32 + 0x1c));
  EXPECT_EQ(types, (std::vector<unsigned>{0, 1, 3, 4, 16, 17, 19, 19, 32, 127}));
}

TEST(Smbios, TextsForTheSystem) {
  PlatformDescription platform = platform_of(1);
  platform.oem_strings = {"io.systemd.credential:a=b", std::string(5000, 'x')};
  const ByteImage image = build_smbios(platform, 0xf0000);
  const std::string bytes(reinterpret_cast<const char*>(image.span().data()), image.size());
  const std::string structure = std::string("\x0b\x05\x00\x0b\x02", 5) + "io.systemd.credential:a=b" + '\0' +
                                std::string(5000, 'x') + std::string(2, '\0');
  EXPECT_NE(bytes.find(structure), std::string::npos);
}

// dmidecode is the judge of the fields, where it is installed.
TEST(Smbios, DmidecodeUnderstandsIt) {
  if (run("command -v dmidecode").status != 0) GTEST_SKIP() << "dmidecode is not installed";
  // A dump as `dmidecode --dump-bin` writes it: the entry point at 0, the structures at 32.
  ByteImage image = build_smbios(platform_of(4), 0xf0000);
  ByteView view(image.span());
  ByteImage dump(32);
  dump.put_bytes(0, *view.slice(0, 24));
  dump.put64(16, 32);
  dump.put_checksum(5, 0, 24);
  dump.bytes(*view.slice(64, view.size() - 64));
  std::string file = (std::filesystem::temp_directory_path() / "rhea-dmi-XXXXXX").string();
  int fd = mkstemp(file.data());
  ASSERT_GE(fd, 0);
  ASSERT_EQ(write(fd, dump.span().data(), dump.size()), static_cast<ssize_t>(dump.size()));
  close(fd);
  CommandResult shown = run("dmidecode --from-dump " + file);
  EXPECT_EQ(shown.status, 0) << shown.output;
  EXPECT_NE(shown.output.find("Product Name: Rhea PC"), std::string::npos) << shown.output;
  EXPECT_NE(shown.output.find("Size: 8 GB"), std::string::npos) << shown.output;
  EXPECT_EQ(shown.output.find("TRUNCATED"), std::string::npos) << shown.output;
  EXPECT_EQ(shown.output.find("Wrong"), std::string::npos) << shown.output;
  unlink(file.c_str());
}

}  // namespace
}  // namespace rhea::machine
