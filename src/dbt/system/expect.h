// SPDX-License-Identifier: Apache-2.0
// What the tests of this folder expect of a Fallible.
#pragma once

#include <gtest/gtest.h>

#include "dbt/system/system.h"

#define EXPECT_NEXT(expression, next)                                                                               \
  do {                                                                                                              \
    auto expect_result = (expression);                                                                              \
    if (!expect_result) {                                                                                           \
      ADD_FAILURE() << #expression << " raised vector " << unsigned{expect_result.error().vector} << " error code " \
                    << expect_result.error().error_code;                                                            \
    } else {                                                                                                        \
      EXPECT_EQ(*expect_result, next);                                                                              \
    }                                                                                                               \
  } while (false)
#define EXPECT_RUNS(expression)                                                                                     \
  do {                                                                                                              \
    auto expect_result = (expression);                                                                              \
    if (!expect_result)                                                                                             \
      ADD_FAILURE() << #expression << " raised vector " << unsigned{expect_result.error().vector} << " error code " \
                    << expect_result.error().error_code;                                                            \
  } while (false)
#define EXPECT_RAISES(expression, expected_vector, expected_code)                                \
  do {                                                                                           \
    auto expect_result = (expression);                                                           \
    ASSERT_FALSE(expect_result.has_value()) << #expression << " raised nothing";                 \
    EXPECT_EQ(unsigned{expect_result.error().vector}, unsigned{expected_vector}) << #expression; \
    EXPECT_TRUE(expect_result.error().has_error_code) << #expression;                            \
    EXPECT_EQ(expect_result.error().error_code, uint32_t(expected_code)) << #expression;         \
  } while (false)
#define EXPECT_UNDEFINED(expression)                                                                         \
  do {                                                                                                       \
    auto expect_result = (expression);                                                                       \
    ASSERT_FALSE(expect_result.has_value()) << #expression << " raised nothing";                             \
    EXPECT_EQ(unsigned{expect_result.error().vector}, unsigned{::rhea::dbt::kInvalidOpcode}) << #expression; \
    EXPECT_FALSE(expect_result.error().has_error_code) << #expression;                                       \
  } while (false)
