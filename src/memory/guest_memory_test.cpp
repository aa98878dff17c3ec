// SPDX-License-Identifier: Apache-2.0
// Tests of guest RAM.
#include <gtest/gtest.h>
