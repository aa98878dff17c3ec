// SPDX-License-Identifier: Apache-2.0
// Tests of io/irq.
#include <gtest/gtest.h>
