// SPDX-License-Identifier: Apache-2.0
// Tests of base/fd.
#include <gtest/gtest.h>
