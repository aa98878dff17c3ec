// SPDX-License-Identifier: Apache-2.0
// What takes the memory of block tables. Ordinary code: memory is taken only while the guest's vector registers are put
// away.
#include <new>

#include "dbt/runtime/block.h"

namespace rhea::dbt {

Arena::~Arena() {
  for (uint8_t* chunk : chunks_) ::operator delete(chunk, std::align_val_t{64});
}

void* Arena::allocate(size_t bytes, size_t alignment) {
  size_t start = (used_ + alignment - 1) & ~(alignment - 1);
  if (start + bytes > kChunkBytes || chunks_.empty()) {
    if (!chunks_.empty()) ++chunk_;
    if (chunk_ >= chunks_.size())
      chunks_.push_back(static_cast<uint8_t*>(::operator new(kChunkBytes, std::align_val_t{64})));
    start = 0;
  }
  used_ = start + bytes;
  return chunks_[chunk_] + start;
}

void Arena::reset() {
  chunk_ = 0;
  used_ = chunks_.empty() ? kChunkBytes : 0;
}

Result<HostIndex> HostIndex::create(uint64_t code_cache_bytes) {
  constexpr uint64_t kSmallestBlock = 32;  // aligned to 16 bytes, with an entry and at least one jump
  HostIndex index;
  index.capacity_ = code_cache_bytes / kSmallestBlock;
  index.mapping_ = RHEA_TRY(base::UniqueMapping::anonymous(index.capacity_ * sizeof(Block*), "the code cache's index"));
  index.blocks_ = reinterpret_cast<Block**>(index.mapping_.get());
  return index;
}

}  // namespace rhea::dbt
