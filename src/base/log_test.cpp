// SPDX-License-Identifier: Apache-2.0
// Tests of base/log.
#include <gtest/gtest.h>
