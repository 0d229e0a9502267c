#include "chunk_hash.h"

#include <cstring>
#include <vector>

#include "../vendor/blake3/blake3.h"

namespace memferry {

bool allZero(const uint8_t* data, size_t length) {
  size_t at = 0;
  // Four words a step: the compiler makes vector code of it, and data that is not zero leaves on
  // the first step.
  for (; at + 32 <= length; at += 32) {
    uint64_t word[4];
    std::memcpy(word, data + at, sizeof word);
    if (word[0] | word[1] | word[2] | word[3]) return false;
  }
  for (; at < length; at++) {
    if (data[at]) return false;
  }
  return true;
}

void blake3(const uint8_t* data, size_t length, const uint8_t* key, uint8_t* out) {
  blake3_hasher hasher;
  if (key) {
    blake3_hasher_init_keyed(&hasher, key);
  } else {
    blake3_hasher_init(&hasher);
  }
  blake3_hasher_update(&hasher, data, length);
  blake3_hasher_finalize(&hasher, out, BLAKE3_OUT_LEN);
  // The hasher's copy of the key would stay on this thread's stack.
  if (key) explicit_bzero(&hasher, sizeof hasher);
}

ChunkHash::ChunkHash(const uint8_t* key, uint32_t chunkBytes, uint32_t tailBytes)
    : chunkBytes_(chunkBytes) {
  std::memcpy(key_.data(), key, key_.size());
  const std::vector<uint8_t> zeros(chunkBytes);
  digest(zeros.data(), chunkBytes, whole_.data());
  digest(zeros.data(), tailBytes, tail_.data());
}

void ChunkHash::digest(const uint8_t* data, size_t length, uint8_t* out) const {
  blake3(data, length, key_.data(), out);
}

void ChunkHash::wipe() { explicit_bzero(key_.data(), key_.size()); }

}  // namespace memferry
