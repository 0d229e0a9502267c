// Disjoint half-open ranges of 64-bit numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

namespace memferry {

class RangeSet {
 public:
  // Returns how much of it was new.
  uint64_t add(uint64_t start, uint64_t end) {
    if (start >= end) return 0;
    // Most of what comes goes on where the last ended: no node is made for it.
    if (!ranges_.empty()) {
      auto& [first, last] = *std::prev(ranges_.end());
      if (start == last) {
        last = end;
        return end - start;
      }
      if (start >= first && end <= last) return 0;
    }
    uint64_t fresh = end - start;
    const uint64_t asked = start;
    const uint64_t askedEnd = end;
    auto at = ranges_.upper_bound(start);
    if (at != ranges_.begin() && std::prev(at)->second >= start) --at;
    while (at != ranges_.end() && at->first <= end) {
      const uint64_t from = std::max(asked, at->first);
      const uint64_t to = std::min(askedEnd, at->second);
      if (from < to) fresh -= to - from;
      start = std::min(start, at->first);
      end = std::max(end, at->second);
      at = ranges_.erase(at);
    }
    ranges_.emplace(start, end);
    return fresh;
  }

  void remove(uint64_t start, uint64_t end) {
    if (start >= end) return;
    auto at = ranges_.upper_bound(start);
    if (at != ranges_.begin()) --at;
    while (at != ranges_.end() && at->first < end) {
      if (at->second <= start) {
        ++at;
        continue;
      }
      const uint64_t first = at->first;
      const uint64_t last = at->second;
      at = ranges_.erase(at);
      if (first < start) ranges_.emplace(first, start);
      if (last > end) at = ranges_.emplace(end, last).first;
    }
  }

  bool contains(uint64_t value) const {
    auto at = ranges_.upper_bound(value);
    return at != ranges_.begin() && std::prev(at)->second > value;
  }

  bool empty() const { return ranges_.empty(); }
  size_t size() const { return ranges_.size(); }
  uint64_t first() const { return ranges_.begin()->first; }
  uint64_t firstEnd() const { return ranges_.begin()->second; }
  void dropFirst() { ranges_.erase(ranges_.begin()); }
  const std::map<uint64_t, uint64_t>& all() const { return ranges_; }

 private:
  std::map<uint64_t, uint64_t> ranges_;
};

}  // namespace memferry
