#include "atomic_bitmap.h"

#include <algorithm>
#include <bit>

namespace memferry {
namespace {

// Calls `visit(word, mask)` for each word that [first, last] touches; stops when it answers false.
template <typename Visit>
bool eachWord(uint32_t first, uint32_t last, Visit visit) {
  for (size_t word = first / 64; word <= last / 64; word++) {
    uint64_t mask = ~0ull;
    if (word == first / 64) mask &= ~0ull << (first % 64);
    if (word == last / 64) mask &= ~0ull >> (63 - last % 64);
    if (!visit(word, mask)) return false;
  }
  return true;
}

}  // namespace

AtomicBitmap::AtomicBitmap(uint32_t bits, bool value)
    : bits_(bits),
      words_((static_cast<size_t>(bits) + 63) / 64),
      data_(std::make_unique<std::atomic<uint64_t>[]>(words_)) {
  for (size_t i = 0; i < words_; i++) data_[i].store(value ? wordMask(i) : 0);
}

uint64_t AtomicBitmap::wordMask(size_t index) const {
  const uint32_t tail = bits_ % 64;
  return index + 1 == words_ && tail != 0 ? (1ull << tail) - 1 : ~0ull;
}

void AtomicBitmap::setRange(uint32_t first, uint32_t last) {
  eachWord(first, last, [&](size_t i, uint64_t mask) {
    data_[i].fetch_or(mask);
    return true;
  });
}

void AtomicBitmap::clearRange(uint32_t first, uint32_t last) {
  eachWord(first, last, [&](size_t i, uint64_t mask) {
    // A load first: nearly always there is nothing to clear, and then the line stays shared.
    if (data_[i].load() & mask) data_[i].fetch_and(~mask);
    return true;
  });
}

bool AtomicBitmap::allSet(uint32_t first, uint32_t last) const {
  return eachWord(first, last,
                  [&](size_t i, uint64_t mask) { return (data_[i].load() & mask) == mask; });
}

uint64_t AtomicBitmap::count() const {
  uint64_t total = 0;
  for (size_t i = 0; i < words_; i++) total += std::popcount(data_[i].load());
  return total;
}

void AtomicBitmap::copyTo(uint8_t* out) const {
  for (size_t i = 0; i < words_; i++) putWord(out, i, data_[i].load());
}

void AtomicBitmap::takeTo(uint8_t* out) {
  for (size_t i = 0; i < words_; i++) {
    // Most words are zero most of the time; an exchange would pull their lines to this core.
    putWord(out, i, data_[i].load() ? data_[i].exchange(0) : 0);
  }
}

void AtomicBitmap::merge(const uint8_t* in) {
  for (size_t i = 0; i < words_; i++) {
    const uint64_t value = exportedWord(in, i);
    if (value) data_[i].fetch_or(value);
  }
}

uint64_t AtomicBitmap::exportedWord(const uint8_t* in, size_t index) const {
  const size_t end = std::min(bytes(), index * 8 + 8);
  uint64_t value = 0;
  for (size_t at = index * 8; at < end; at++) value |= uint64_t{in[at]} << (8 * (at % 8));
  return value & wordMask(index);
}

void AtomicBitmap::putWord(uint8_t* out, size_t index, uint64_t value) const {
  const size_t end = std::min(bytes(), index * 8 + 8);
  for (size_t at = index * 8; at < end; at++) out[at] = static_cast<uint8_t>(value >> (8 * (at % 8)));
}

}  // namespace memferry
