// SPDX-License-Identifier: Apache-2.0
// Errors: codes, chains, RHEA_TRY; and checks.
#include <gtest/gtest.h>

#include <cerrno>

#include "base/check.h"
#include "base/error.h"

namespace rhea {
namespace {

TEST(Error, ChainPrintsAsOneLine) {
  const Error inner = Error::from_errno(ENOENT, "cannot open 'x'");
  const Error outer = inner.context("cannot load the kernel").context("cannot start the machine");
  EXPECT_EQ(outer.to_string(),
            "cannot start the machine: cannot load the kernel: cannot open 'x': No such file or directory");
  EXPECT_EQ(outer.code(), ErrorCode::kNotFound);
  ASSERT_NE(outer.cause(), nullptr);
  EXPECT_EQ(outer.cause()->message(), "cannot load the kernel");
  EXPECT_EQ(inner.cause(), nullptr);
}

TEST(Error, ErrnoValuesMapToCodes) {
  const std::pair<int, ErrorCode> kCases[] = {
      {EINVAL, ErrorCode::kInvalidArgument}, {EACCES, ErrorCode::kPermissionDenied},
      {ENOMEM, ErrorCode::kExhausted},       {EBUSY, ErrorCode::kBusy},
      {ENOSYS, ErrorCode::kUnsupported},     {EIO, ErrorCode::kIo}};
  for (const auto& [number, code] : kCases) EXPECT_EQ(Error::from_errno(number, "").code(), code) << number;
}

Result<int> half(int value) {
  if (value % 2 != 0) return fail(ErrorCode::kInvalidArgument, "odd");
  return value / 2;
}
Result<int> quarter(int value) {
  const int first = RHEA_TRY(half(value));
  return RHEA_TRY(half(first));
}
Status check_quarter(int value) {
  RHEA_TRY(quarter(value));
  return {};
}

TEST(Error, TryPassesValuesAndErrorsOn) {
  EXPECT_EQ(quarter(12), 3);
  EXPECT_EQ(quarter(6).error().message(), "odd");
  EXPECT_TRUE(check_quarter(4));
  EXPECT_FALSE(check_quarter(2));
}

TEST(CheckDeathTest, FailedCheckNamesTheCondition) {
  const int one = 1;
  RHEA_CHECK(one == 1);
  EXPECT_DEATH(RHEA_CHECK(one == 2), "error_test.cpp:.*check failed: one == 2");
}

}  // namespace
}  // namespace rhea
