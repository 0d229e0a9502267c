#include "direct_streams.h"

#include <algorithm>
#include <cstring>

namespace memferry::direct {
namespace {

constexpr size_t kBlockBytes = 64 * 1024;
// Twice what the largest window has in packets of which every second is lost: more is somebody who sends single bytes.
constexpr size_t kRangesMax = 20'000;
constexpr uint64_t kOffsetMax = uint64_t{1} << 62;

}  // namespace

void SendStream::write(const uint8_t* data, size_t length) {
  while (length > 0) {
    if (blocks_.empty() || blocks_.back().bytes.size() == blocks_.back().bytes.capacity()) {
      blocks_.push_back({end_, {}});
      blocks_.back().bytes.reserve(std::max(kBlockBytes, std::min<size_t>(length, 4 * kBlockBytes)));
    }
    std::vector<uint8_t>& bytes = blocks_.back().bytes;
    const size_t count = std::min(length, bytes.capacity() - bytes.size());
    bytes.insert(bytes.end(), data, data + count);
    data += count;
    length -= count;
    end_ += count;
  }
}

bool SendStream::hasNext() const {
  return !lost_.empty() || next_ < std::min(end_, limit_) || (ended_ && !endSent_ && next_ == end_);
}

bool SendStream::next(size_t room, Segment& segment) {
  segment.last = false;
  if (!lost_.empty()) {
    segment.offset = lost_.first();
    segment.length = static_cast<uint16_t>(std::min<uint64_t>(room, lost_.firstEnd() - segment.offset));
    lost_.remove(segment.offset, segment.offset + segment.length);
  } else if (next_ < std::min(end_, limit_)) {
    segment.offset = next_;
    segment.length = static_cast<uint16_t>(std::min<uint64_t>(room, std::min(end_, limit_) - next_));
    next_ += segment.length;
  } else if (ended_ && !endSent_ && next_ == end_) {
    segment.offset = end_;
    segment.length = 0;
  } else {
    return false;
  }
  if (ended_ && segment.offset + segment.length == end_) {
    segment.last = true;
    endSent_ = true;
  }
  return true;
}

void SendStream::copy(const Segment& segment, uint8_t* out) const {
  uint64_t offset = segment.offset;
  size_t left = segment.length;
  if (left == 0) return;
  auto block = std::upper_bound(blocks_.begin(), blocks_.end(), offset,
                                [](uint64_t value, const Block& one) { return value < one.offset; });
  --block;
  while (left > 0) {
    const size_t from = static_cast<size_t>(offset - block->offset);
    const size_t count = std::min(left, block->bytes.size() - from);
    std::memcpy(out, block->bytes.data() + from, count);
    out += count;
    offset += count;
    left -= count;
    ++block;
  }
}

void SendStream::acknowledged(const Segment& segment) {
  if (segment.last) endAcknowledged_ = true;
  acknowledged_.add(segment.offset, segment.offset + segment.length);
  lost_.remove(segment.offset, segment.offset + segment.length);
  if (acknowledged_.empty() || acknowledged_.first() > base_) return;
  base_ = std::max(base_, acknowledged_.firstEnd());
  acknowledged_.dropFirst();
  // A block with room left takes what is written next.
  while (!blocks_.empty() && blocks_.front().offset + blocks_.front().bytes.size() <= base_ &&
         (blocks_.size() > 1 || blocks_.front().bytes.size() == blocks_.front().bytes.capacity())) {
    blocks_.pop_front();
  }
}

void SendStream::lost(const Segment& segment) {
  if (segment.last && !endAcknowledged_) endSent_ = false;
  const uint64_t start = std::max(segment.offset, base_);
  const uint64_t end = segment.offset + segment.length;
  if (start >= end) return;
  lost_.add(start, end);
  // Another copy of it may have arrived.
  for (const auto& [from, to] : acknowledged_.all()) {
    if (from >= end) break;
    if (to > start) lost_.remove(from, to);
  }
}

void SendStream::raiseLimit(uint64_t offset) { limit_ = std::max(limit_, std::min(offset, kOffsetMax)); }

bool ReceiveStream::receive(uint64_t offset, const uint8_t* data, size_t length, bool last) {
  if (offset > kOffsetMax || offset + length > advertised_) return false;
  if (last) {
    if (lastKnown_ && last_ != offset + length) return false;
    if (!received_.empty() && std::prev(received_.all().end())->second > offset + length) return false;
    last_ = offset + length;
    lastKnown_ = true;
  } else if (lastKnown_ && offset + length > last_) {
    return false;
  }
  // The end by itself may overtake the bytes before it: then there is nothing to keep.
  if (length == 0 || offset + length <= contiguous_) return true;
  if (offset < contiguous_) {
    data += contiguous_ - offset;
    length -= static_cast<size_t>(contiguous_ - offset);
    offset = contiguous_;
  }
  received_.add(offset, offset + length);
  if (received_.size() > kRangesMax) return false;
  uint64_t at = offset;
  while (length > 0) {
    Page& page = pages_[at / kPageBytes];
    if (!page) page = std::make_unique_for_overwrite<uint8_t[]>(kPageBytes);
    const size_t from = static_cast<size_t>(at % kPageBytes);
    const size_t count = std::min(length, kPageBytes - from);
    std::memcpy(page.get() + from, data, count);
    data += count;
    at += count;
    length -= count;
  }
  if (received_.first() <= contiguous_) {
    contiguous_ = received_.firstEnd();
    received_.dropFirst();
  }
  return true;
}

size_t ReceiveStream::read(uint8_t* out, size_t length) {
  size_t done = 0;
  length = static_cast<size_t>(std::min<uint64_t>(length, readable()));
  while (done < length) {
    const auto page = pages_.find(read_ / kPageBytes);
    const size_t from = static_cast<size_t>(read_ % kPageBytes);
    const size_t count = std::min(length - done, kPageBytes - from);
    std::memcpy(out + done, page->second.get() + from, count);
    done += count;
    read_ += count;
    if (read_ % kPageBytes == 0) pages_.erase(page);
  }
  return done;
}

uint64_t ReceiveStream::advertise(uint64_t now, uint64_t rtt, uint64_t growth) {
  // A quarter of it was read within a round trip: it is the window that holds the sender back, or soon will.
  if (advertisedAt_ != 0 && now - advertisedAt_ < rtt) window_ += std::min(growth, window_);
  advertisedAt_ = now;
  advertised_ = std::max(advertised_, read_ + window_);
  return advertised_;
}

}  // namespace memferry::direct
