// What of a region is present, kept beside it in a file so that it outlives the process and the host.
//
// Two views. The *live* bitmap is a shared mapping: whatever this process set is there for the next one on the
// same boot, exactly. After the host itself went down nobody knows which of the mapping's pages reached the
// disk before the region's bytes did, so then a *checkpoint* counts: a bitmap that was written only after
// the bytes and hashes of all its chunks were made durable. Two slots alternate, each with a sequence number
// and a BLAKE3 over both; a torn one is not valid and the other is older, never wrong.
//
// Order of a checkpoint: copy the bitmap, make the region's bytes durable, then the hashes, then the slot. A chunk
// that comes in after the copy waits for the next one. The kernel may write the mapping's pages whenever it
// likes; a slot that gets out early is whole, and then all it declares is durable already, or it is not valid.
//
// A chunk's bit is set in the live bitmap after its bytes and hash are written and before anybody is served
// from it. So a bit that is lost costs a chunk that is fetched again, and a bit that is there is never a lie.
//
// Layout, little-endian, each part on a page boundary:
//   header   "MFSTATE1", u64 bytes, u32 chunk bytes, u32 chunks, 36 characters of boot id
//   live     one bit per chunk
//   slot 0, slot 1   u64 sequence (0: never written), 32 bytes BLAKE3, 24 bytes zero, one bit per chunk
//   hashes   32 bytes per chunk: what was verified when it was stored last
//   written  one bit per chunk, where writes are kept: see markWritten()
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "atomic_bitmap.h"
#include "failure.h"
#include "store.h"

namespace memferry {

enum class Restored { none, exact, checkpoint };

class RegionState {
 public:
  struct Options {
    std::string path;
    // Go on with what is there, or begin a new one in its place.
    bool resume = false;
    // Keep which chunks were written and not settled.
    bool writes = false;
  };

  static std::shared_ptr<RegionState> open(const Options& options, uint64_t bytes, uint32_t chunkBytes,
                                           uint32_t chunkCount, Failure& failure);
  ~RegionState();
  RegionState(const RegionState&) = delete;
  RegionState& operator=(const RegionState&) = delete;

  Restored restored() const { return restored_; }
  // For chunks whose bytes are written; any thread.
  void setHash(uint32_t chunk, const uint8_t* hash);
  void set(uint32_t chunk) { setWord(chunk / 64, 1ull << (chunk % 64)); }
  void setWord(size_t word, uint64_t bits) {
    live(word).fetch_or(bits);
    // After the bit: whoever finds the number unchanged misses none of the bits that it has to declare.
    changes_.fetch_add(1);
  }
  // Its bytes are about to go.
  void clear(uint32_t chunk) {
    live(chunk / 64).fetch_and(~(1ull << (chunk % 64)));
    changes_.fetch_add(1);
  }
  uint64_t word(size_t word) const;

  // Chunks that hold what is nowhere else yet. Marked before the bytes change, so that a process that is killed in
  // the middle leaves no change unmarked, and once more after: settle() may have come in between.
  void markWritten(uint32_t first, uint32_t last);
  // What of `bits` was brought elsewhere and has not been written since, by `dirty`, is no longer marked.
  void settle(const uint8_t* bits, const AtomicBitmap& dirty);
  void copyWritten(uint8_t* out) const;
  bool keepsWrites() const { return writtenOffset_ != 0; }
  void copyHashes(uint8_t* out) const;

  // Makes `store` durable, then declares what was present before that. 0 or an errno. Any thread. Costs what
  // making the store durable costs where nothing came in since the last one.
  int checkpoint(Store& store);

 private:
  struct Layout;

  RegionState() = default;
  Failure create(const Layout& layout);
  Failure fill(const Layout& layout);
  Failure resume(const Layout& layout);
  std::atomic<uint64_t>& live(size_t word) const;
  std::atomic<uint64_t>& written(size_t word) const;
  uint8_t* slot(int which) const;
  bool slotIsValid(int which) const;
  int flush(const uint8_t* from, size_t length) const;

  int fd_ = -1;
  std::string path_;
  uint8_t* map_ = nullptr;
  size_t mapBytes_ = 0;
  size_t liveOffset_ = 0, slotOffset_ = 0, slotBytes_ = 0, hashOffset_ = 0;
  // 0: writes are not kept.
  size_t writtenOffset_ = 0;
  size_t words_ = 0;
  uint32_t chunkCount_ = 0;
  Restored restored_ = Restored::none;
  std::atomic<uint64_t> changes_{1};
  // Those that the newest slot declares. None, for what a predecessor wrote: it may have been killed before its
  // slot was on the disk, so the first checkpoint writes one of its own.
  std::atomic<uint64_t> declaredChanges_{0};
  std::mutex checkpointMutex_;
  // Of the newest slot.
  uint64_t sequence_ = 0;
};

}  // namespace memferry
