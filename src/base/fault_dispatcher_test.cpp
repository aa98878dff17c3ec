// SPDX-License-Identifier: Apache-2.0
// Tests of base/fault_dispatcher.
#include <gtest/gtest.h>
