// SPDX-License-Identifier: Apache-2.0
// Tests of base/strings.
#include <gtest/gtest.h>
