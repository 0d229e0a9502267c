#include "direct_wire.h"

#include <algorithm>

#include "../vendor/blake3/blake3.h"

// Of blake3_impl.h, which is C only: the compression of many inputs of so many whole blocks at once.
extern "C" void blake3_hash_many(const uint8_t* const* inputs, size_t count, size_t blocks, const uint32_t key[8],
                                 uint64_t counter, bool incrementCounter, uint8_t flags, uint8_t flagsStart,
                                 uint8_t flagsEnd, uint8_t* out);

namespace memferry::direct {
namespace {

// As the BLAKE3 paper has them (2.2, table 3).
constexpr uint8_t kChunkStart = 1;
constexpr uint8_t kChunkEnd = 2;
constexpr uint8_t kParent = 4;
constexpr uint8_t kRoot = 8;
constexpr uint8_t kKeyedHash = 16;
constexpr size_t kBlockBytes = 64;
constexpr size_t kChunkBytes = 1024;
constexpr size_t kDigestBytes = 32;
constexpr size_t kLanes = 16;

size_t padded(size_t length) { return (length + kBlockBytes - 1) / kBlockBytes * kBlockBytes; }

}  // namespace

void authenticate(const uint8_t* key, const uint8_t* data, size_t length, uint8_t* mac) {
  static constexpr uint8_t kZeros[kBlockBytes] = {};
  blake3_hasher hasher;
  blake3_hasher_init_keyed(&hasher, key);
  blake3_hasher_update(&hasher, data, length);
  blake3_hasher_update(&hasher, kZeros, padded(length) - length);
  blake3_hasher_finalize(&hasher, mac, kMacBytes);
}

void authenticateMany(const uint8_t* key, const uint8_t* packets, size_t packetBytes, size_t count, uint8_t* macs) {
  const size_t length = packetBytes - kMacBytes;
  const size_t whole = padded(length);
  // Two chunks and their parent: what an Ethernet packet is.
  if (count < 2 || whole <= kChunkBytes || whole > 2 * kChunkBytes) {
    for (size_t i = 0; i < count; i++) authenticate(key, packets + i * packetBytes, length, macs + i * kMacBytes);
    return;
  }
  uint32_t words[8];
  for (int i = 0; i < 8; i++) {
    words[i] = static_cast<uint32_t>(key[4 * i]) | static_cast<uint32_t>(key[4 * i + 1]) << 8 |
               static_cast<uint32_t>(key[4 * i + 2]) << 16 | static_cast<uint32_t>(key[4 * i + 3]) << 24;
  }
  alignas(64) uint8_t tails[kLanes][kChunkBytes];
  alignas(64) uint8_t left[kLanes * kDigestBytes];
  alignas(64) uint8_t right[kLanes * kDigestBytes];
  alignas(64) uint8_t parents[kLanes][kBlockBytes];
  const uint8_t* inputs[kLanes];
  for (size_t done = 0; done < count; done += kLanes) {
    const size_t lanes = std::min(kLanes, count - done);
    const uint8_t* first = packets + done * packetBytes;
    for (size_t i = 0; i < lanes; i++) inputs[i] = first + i * packetBytes;
    blake3_hash_many(inputs, lanes, kChunkBytes / kBlockBytes, words, 0, false, kKeyedHash, kChunkStart, kChunkEnd, left);
    for (size_t i = 0; i < lanes; i++) {
      std::memcpy(tails[i], first + i * packetBytes + kChunkBytes, length - kChunkBytes);
      std::memset(tails[i] + length - kChunkBytes, 0, whole - length);
      inputs[i] = tails[i];
    }
    blake3_hash_many(inputs, lanes, (whole - kChunkBytes) / kBlockBytes, words, 1, false, kKeyedHash, kChunkStart, kChunkEnd,
                     right);
    for (size_t i = 0; i < lanes; i++) {
      std::memcpy(parents[i], left + i * kDigestBytes, kDigestBytes);
      std::memcpy(parents[i] + kDigestBytes, right + i * kDigestBytes, kDigestBytes);
      inputs[i] = parents[i];
    }
    blake3_hash_many(inputs, lanes, 1, words, 0, false, kKeyedHash | kParent, 0, kRoot, left);
    for (size_t i = 0; i < lanes; i++) std::memcpy(macs + (done + i) * kMacBytes, left + i * kDigestBytes, kMacBytes);
  }
}

void sealMany(const uint8_t* key, uint8_t* packets, size_t length, size_t packetBytes) {
  const size_t whole = length / packetBytes;
  uint8_t macs[kLanes * kMacBytes];
  for (size_t done = 0; done < whole; done += kLanes) {
    const size_t count = std::min(kLanes, whole - done);
    authenticateMany(key, packets + done * packetBytes, packetBytes, count, macs);
    for (size_t i = 0; i < count; i++) {
      std::memcpy(packets + (done + i + 1) * packetBytes - kMacBytes, macs + i * kMacBytes, kMacBytes);
    }
  }
  const size_t rest = length - whole * packetBytes;
  uint8_t* last = packets + whole * packetBytes;
  if (rest > 0) authenticate(key, last, rest - kMacBytes, last + rest - kMacBytes);
}

bool equalMacs(const uint8_t* one, const uint8_t* other) {
  uint8_t difference = 0;
  for (size_t i = 0; i < kMacBytes; i++) difference |= static_cast<uint8_t>(one[i] ^ other[i]);
  return difference == 0;
}

bool authentic(const uint8_t* key, const uint8_t* data, size_t length, const uint8_t* mac) {
  uint8_t wanted[kMacBytes];
  authenticate(key, data, length, wanted);
  return equalMacs(wanted, mac);
}

}  // namespace memferry::direct
