// Replies on their way into a socket: gathered, so that a batch of small ones is one system call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace memferry {

class NbdOutput {
 public:
  // Room for what `full` lets in and one more piece.
  static constexpr size_t kFullBytes = 128 << 10;
  static constexpr size_t kPieceBytes = 256 << 10;

  NbdOutput() : data_(static_cast<uint8_t*>(std::malloc(kRoom))) {
    if (!data_) std::abort();
  }

  const uint8_t* data() const { return data_.get(); }
  size_t length() const { return length_; }
  bool full() const { return length_ >= kFullBytes; }
  void clear() { length_ = 0; }
  // `length` bytes at the end, to be filled; at most kPieceBytes and a header while not full.
  uint8_t* extend(size_t length) {
    uint8_t* const at = data_.get() + length_;
    length_ += length;
    return at;
  }
  void shorten(size_t length) { length_ -= length; }

  NbdOutput& u16(uint16_t value) { return put(value, 2); }
  NbdOutput& u32(uint32_t value) { return put(value, 4); }
  NbdOutput& u64(uint64_t value) { return put(value, 8); }

 private:
  static constexpr size_t kRoom = kFullBytes + kPieceBytes + 4096;
  NbdOutput& put(uint64_t value, unsigned bytes) {
    uint8_t* at = extend(bytes);
    while (bytes-- > 0) *at++ = static_cast<uint8_t>(value >> (bytes * 8));
    return *this;
  }

  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t, Free> data_;
  size_t length_ = 0;
};

}  // namespace memferry
