// SPDX-License-Identifier: Apache-2.0
// Tests of the fakes.
#include <gtest/gtest.h>
#include "testing/device_harness.h"
#include "testing/guest_memory_fake.h"
