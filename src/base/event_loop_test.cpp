// SPDX-License-Identifier: Apache-2.0
// Tests of base/event_loop.
#include <gtest/gtest.h>
