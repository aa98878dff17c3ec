// SPDX-License-Identifier: Apache-2.0
// Tests of io/device_spec.
#include <gtest/gtest.h>
