#include "direct_wire.h"

#include "../vendor/blake3/blake3.h"

namespace memferry::direct {

void authenticate(const uint8_t* key, const uint8_t* data, size_t length, uint8_t* mac) {
  blake3_hasher hasher;
  blake3_hasher_init_keyed(&hasher, key);
  blake3_hasher_update(&hasher, data, length);
  blake3_hasher_finalize(&hasher, mac, kMacBytes);
}

bool authentic(const uint8_t* key, const uint8_t* data, size_t length, const uint8_t* mac) {
  uint8_t wanted[kMacBytes];
  authenticate(key, data, length, wanted);
  uint8_t difference = 0;
  for (size_t i = 0; i < kMacBytes; i++) difference |= static_cast<uint8_t>(wanted[i] ^ mac[i]);
  return difference == 0;
}

}  // namespace memferry::direct
