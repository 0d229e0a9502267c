// Replies on their way into a socket: gathered, so that a batch of small ones is one system call, and without
// a copy of what is in memory already.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace memferry {

class NbdOutput {
 public:
  // Room for what `full` lets in and one more piece.
  static constexpr size_t kFullBytes = 128 << 10;
  static constexpr size_t kPieceBytes = 256 << 10;

  NbdOutput() : own_(static_cast<uint8_t*>(std::malloc(kRoom))) {
    if (!own_) std::abort();
  }

  size_t length() const { return length_; }
  bool full() const { return length_ >= kFullBytes || parts_.size() >= kMaxParts; }
  // What is to be sent. The parts are the caller's to change; all is as good as gone.
  std::vector<iovec>& parts() { return parts_; }
  void clear() {
    parts_.clear();
    length_ = ownLength_ = 0;
  }
  // `length` bytes at the end, to be filled; at most kPieceBytes and a header while not full.
  uint8_t* extend(size_t length) {
    uint8_t* const at = own_.get() + ownLength_;
    ownLength_ += length;
    length_ += length;
    if (!parts_.empty() && static_cast<uint8_t*>(parts_.back().iov_base) + parts_.back().iov_len == at) {
      parts_.back().iov_len += length;
    } else {
      parts_.push_back({at, length});
    }
    return at;
  }
  // Takes back the last bytes that extend() gave.
  void shorten(size_t length) {
    if (length == 0) return;
    ownLength_ -= length;
    length_ -= length;
    parts_.back().iov_len -= length;
    if (parts_.back().iov_len == 0) parts_.pop_back();
  }
  // Bytes that stay where they are until clear().
  void attach(const uint8_t* bytes, size_t length) {
    parts_.push_back({const_cast<uint8_t*>(bytes), length});
    length_ += length;
  }

  NbdOutput& u16(uint16_t value) { return put(value, 2); }
  NbdOutput& u32(uint32_t value) { return put(value, 4); }
  NbdOutput& u64(uint64_t value) { return put(value, 8); }

 private:
  // Below IOV_MAX, with room for what one reply adds.
  static constexpr size_t kMaxParts = 512;
  static constexpr size_t kRoom = kFullBytes + kPieceBytes + 4096;
  NbdOutput& put(uint64_t value, unsigned bytes) {
    uint8_t* at = extend(bytes);
    while (bytes-- > 0) *at++ = static_cast<uint8_t>(value >> (bytes * 8));
    return *this;
  }

  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t, Free> own_;
  std::vector<iovec> parts_;
  size_t ownLength_ = 0;
  size_t length_ = 0;
};

}  // namespace memferry
