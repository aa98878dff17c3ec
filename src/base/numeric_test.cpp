// SPDX-License-Identifier: Apache-2.0
// Tests of base/numeric.
#include <gtest/gtest.h>
