// SPDX-License-Identifier: Apache-2.0
// Tests of io/clock.
#include <gtest/gtest.h>
