// One bit per chunk, lowest bit of word 0 first; every operation is one atomic step per word.
//
// Any thread may call anything at any time. All operations are sequentially consistent: the claim
// protocol of Region needs a store-then-load order across two bitmaps, which acquire/release does
// not give, and on x86 and arm64 a read-modify-write costs the same either way.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace memferry {

class AtomicBitmap {
 public:
  explicit AtomicBitmap(uint32_t bits, bool value = false);

  uint32_t bits() const { return bits_; }
  size_t words() const { return words_; }
  // Bytes of the exported form: ceil(bits / 8).
  size_t bytes() const { return (static_cast<size_t>(bits_) + 7) / 8; }

  bool test(uint32_t index) const { return (word(index / 64).load() >> (index % 64)) & 1; }
  // Sets the bit; true if it was clear.
  bool set(uint32_t index) {
    const uint64_t mask = 1ull << (index % 64);
    return !(word(index / 64).fetch_or(mask) & mask);
  }
  void clear(uint32_t index) { word(index / 64).fetch_and(~(1ull << (index % 64))); }

  // Ranges are inclusive at both ends.
  void setRange(uint32_t first, uint32_t last);
  void clearRange(uint32_t first, uint32_t last);
  // setRange, for bits that are set already more often than not: looks before it writes.
  void addRange(uint32_t first, uint32_t last) {
    if (first != last || !test(first)) setRange(first, last);
  }
  bool allSet(uint32_t first, uint32_t last) const;

  std::atomic<uint64_t>& word(size_t index) { return data_[index]; }
  const std::atomic<uint64_t>& word(size_t index) const { return data_[index]; }
  // The bits of word `index` that stand for a chunk (all but the tail of the last word).
  uint64_t wordMask(size_t index) const;

  uint64_t count() const;
  // `bytes()` bytes each.
  void copyTo(uint8_t* out) const;
  void takeTo(uint8_t* out);
  void merge(const uint8_t* in);

  // One word of an exported bitmap; bits past the end read as zero.
  uint64_t exportedWord(const uint8_t* in, size_t index) const;

 private:
  void putWord(uint8_t* out, size_t index, uint64_t value) const;

  uint32_t bits_;
  size_t words_;
  std::unique_ptr<std::atomic<uint64_t>[]> data_;
};

}  // namespace memferry
