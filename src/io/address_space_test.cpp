// SPDX-License-Identifier: Apache-2.0
// Tests of io/address_space.
#include <gtest/gtest.h>
