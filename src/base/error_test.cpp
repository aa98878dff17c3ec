// SPDX-License-Identifier: Apache-2.0
// Tests of base/error.
#include <gtest/gtest.h>
