// BLAKE3-256 of chunks, and the test for all zeros.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace memferry {

using Digest = std::array<uint8_t, 32>;

bool allZero(const uint8_t* data, size_t length);
void blake3(const uint8_t* data, size_t length, const uint8_t* key /* 32 bytes or null */,
            uint8_t* out /* 32 bytes */);

// Keyed hashes of one region. Immutable after construction, so any thread may use it; the owner
// calls wipe() when none does.
class ChunkHash {
 public:
  // `tailBytes`: length of the region's last chunk.
  ChunkHash(const uint8_t* key, uint32_t chunkBytes, uint32_t tailBytes);
  ~ChunkHash() { wipe(); }

  void digest(const uint8_t* data, size_t length, uint8_t* out) const;
  // Of `length` zeros, `length` being a whole chunk or the last one: computed once, since a sparse
  // region is mostly such chunks.
  const Digest& ofZeros(size_t length) const { return length == chunkBytes_ ? whole_ : tail_; }

  void wipe();

 private:
  std::array<uint8_t, 32> key_;
  uint32_t chunkBytes_;
  Digest whole_;
  Digest tail_;
};

}  // namespace memferry
