// The two halves of a stream of a direct connection: what was written and is not acknowledged, and what has arrived
// and is not read. No locks: the connection's owner has one.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "range_set.h"

namespace memferry::direct {

struct Segment {
  uint16_t stream = 0;
  uint16_t length = 0;
  bool last = false;
  uint64_t offset = 0;
};

class SendStream {
 public:
  explicit SendStream(uint64_t peerWindow) : limit_(peerWindow) {}

  void write(const uint8_t* data, size_t length);
  void end() { ended_ = true; }
  bool ended() const { return ended_; }
  // The next bytes to leave, at most `room`: lost ones first. False if there are none.
  bool next(size_t room, Segment& segment);
  bool hasNext() const;
  void copy(const Segment& segment, uint8_t* out) const;
  void acknowledged(const Segment& segment);
  void lost(const Segment& segment);
  void raiseLimit(uint64_t offset);
  // Written and never sent.
  uint64_t unsent() const { return end_ - next_; }
  bool settled() const { return base_ == end_ && (!ended_ || endAcknowledged_); }

 private:
  struct Block {
    uint64_t offset;
    std::vector<uint8_t> bytes;
  };
  std::deque<Block> blocks_;
  RangeSet acknowledged_;
  RangeSet lost_;
  uint64_t base_ = 0;
  uint64_t next_ = 0;
  uint64_t end_ = 0;
  uint64_t limit_;
  bool ended_ = false;
  bool endSent_ = false;
  bool endAcknowledged_ = false;
};

class ReceiveStream {
 public:
  explicit ReceiveStream(uint64_t window) : window_(window), advertised_(window) {}

  // False if it breaks what was agreed: the connection is over then.
  bool receive(uint64_t offset, const uint8_t* data, size_t length, bool last);
  // Bytes that may be read at once.
  uint64_t readable() const { return contiguous_ - read_; }
  bool finished() const { return lastKnown_ && read_ == last_; }
  size_t read(uint8_t* out, size_t length);
  // Whether the sender should be told a new limit; `grow` by how much the window may grow.
  bool wantsUpdate() const { return advertised_ - read_ <= window_ - window_ / 4; }
  uint64_t advertise(uint64_t now, uint64_t rtt, uint64_t growth);
  uint64_t advertised() const { return advertised_; }
  uint64_t window() const { return window_; }

 private:
  static constexpr size_t kPageBytes = 64 * 1024;
  using Page = std::unique_ptr<uint8_t[]>;
  std::map<uint64_t, Page> pages_;
  RangeSet received_;
  uint64_t read_ = 0;
  uint64_t contiguous_ = 0;
  uint64_t window_;
  uint64_t advertised_;
  uint64_t advertisedAt_ = 0;
  uint64_t last_ = 0;
  bool lastKnown_ = false;
};

}  // namespace memferry::direct
