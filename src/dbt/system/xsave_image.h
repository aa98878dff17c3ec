// SPDX-License-Identifier: Apache-2.0
// The XSAVE image of the guest's live vector and x87 state, as save_vectors() leaves it. [SDM-1 13.4]
#pragma once

#include "dbt/system/internal.h"

namespace rhea::dbt {

inline constexpr unsigned kLegacyBytes = 512, kXsaveHeaderBytes = 64, kExtendedStart = 576;
inline constexpr unsigned kFcw = 0, kFsw = 2, kFtw = 4, kFop = 6, kFip = 8, kFdp = 16, kMxcsr = 24, kMxcsrMask = 28,
                          kSt0 = 32, kXmm0 = 160, kXstateBv = 512, kXcompBv = 520;
inline constexpr uint64_t kX87Component = 1, kSseComponent = 2, kAvxComponent = 4, kMaskComponent = 0x20,
                          kUpperZmmComponent = 0x40, kHighZmmComponent = 0x80;
inline constexpr uint64_t kCompacted = uint64_t{1} << 63;
inline constexpr uint32_t kDefaultMxcsr = 0x1f80;
inline constexpr uint16_t kDefaultFcw = 0x37f;

inline std::byte* image(Context& context) { return context.state.xsave.data(); }
inline uint64_t image_field(Context& context, unsigned offset, unsigned size_bytes) {
  return load_host(image(context) + offset, size_bytes);
}
inline void set_image_field(Context& context, unsigned offset, unsigned size_bytes, uint64_t value) {
  store_host(image(context) + offset, value, size_bytes);
}
// Marks components of the image as holding something other than their initial value.
inline void mark_in_use(Context& context, uint64_t components) {
  set_image_field(context, kXstateBv, 8, image_field(context, kXstateBv, 8) | components);
}

}  // namespace rhea::dbt
