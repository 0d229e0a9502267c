// The NBD protocol's numbers and byte order, as the specification has them
// (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md).
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace memferry::nbd {

inline constexpr uint64_t kGreeting = 0x4e42444d41474943;  // "NBDMAGIC"
inline constexpr uint64_t kOptionMagic = 0x49484156454f5054;  // "IHAVEOPT"
inline constexpr uint64_t kOptionReplyMagic = 0x0003e889045565a9;
inline constexpr uint32_t kRequestMagic = 0x25609513;
inline constexpr uint32_t kExtendedRequestMagic = 0x21e41c71;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr uint32_t kStructuredReplyMagic = 0x668e33ef;
inline constexpr uint32_t kExtendedReplyMagic = 0x6e8a278c;

inline constexpr size_t kRequestBytes = 28;
inline constexpr size_t kExtendedRequestBytes = 32;

// Handshake flags; the client's have the same values.
enum : uint16_t { kFixedNewstyle = 1, kNoZeroes = 2 };

enum class Option : uint32_t {
  exportName = 1,
  abort = 2,
  list = 3,
  startTls = 5,
  info = 6,
  go = 7,
  structuredReply = 8,
  listMetaContext = 9,
  setMetaContext = 10,
  extendedHeaders = 11,
};

enum class OptionReply : uint32_t {
  ack = 1,
  server = 2,
  info = 3,
  metaContext = 4,
  unsupported = 0x80000001,
  policy = 0x80000002,
  invalid = 0x80000003,
  tlsRequired = 0x80000005,
  unknown = 0x80000006,
  tooBig = 0x80000009,
};

enum class Info : uint16_t { exportSize = 0, name = 1, description = 2, blockSize = 3 };

enum : uint16_t {
  kHasFlags = 1 << 0,
  kReadOnly = 1 << 1,
  kSendFlush = 1 << 2,
  kSendFua = 1 << 3,
  kSendTrim = 1 << 5,
  kSendWriteZeroes = 1 << 6,
  kSendDf = 1 << 7,
  kCanMultiConn = 1 << 8,
  kSendCache = 1 << 10,
  kSendFastZero = 1 << 11,
};

enum class Command : uint16_t {
  read = 0,
  write = 1,
  disconnect = 2,
  flush = 3,
  trim = 4,
  cache = 5,
  writeZeroes = 6,
  blockStatus = 7,
};

enum : uint16_t {
  kFlagFua = 1 << 0,
  kFlagNoHole = 1 << 1,
  kFlagDf = 1 << 2,
  kFlagReqOne = 1 << 3,
  kFlagFastZero = 1 << 4,
  kFlagPayloadLength = 1 << 5,
};

enum class Chunk : uint16_t {
  none = 0,
  offsetData = 1,
  offsetHole = 2,
  blockStatus = 5,
  blockStatusExtended = 6,
  error = 0x8001,
  errorOffset = 0x8002,
};
inline constexpr uint16_t kChunkDone = 1;

// base:allocation
enum : uint32_t { kStateHole = 1, kStateZero = 2 };
// memferry:dirty
inline constexpr uint32_t kStateDirty = 1;

// Errors on the wire have their own numbers, those of Linux on x86.
inline uint32_t wireError(int error) {
  switch (error) {
    case 0:
      return 0;
    case EPERM:
    case EROFS:
    case EACCES:
      return 1;
    case ENOMEM:
      return 12;
    case EINVAL:
      return 22;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return 28;
    case EOVERFLOW:
      return 75;
    case ENOTSUP:
      return 95;
    case ESTALE:
    case ESHUTDOWN:
    case ENOTCONN:
      return 108;
    default:
      return 5;
  }
}

// Big-endian numbers, one after the other, at the end of a buffer.
class Writer {
 public:
  explicit Writer(std::vector<uint8_t>& out) : out_(out) {}
  Writer& u16(uint16_t value) { return put(value, 2); }
  Writer& u32(uint32_t value) { return put(value, 4); }
  Writer& u64(uint64_t value) { return put(value, 8); }
  Writer& text(const std::string& value) { return bytes(value.data(), value.size()); }
  Writer& bytes(const void* data, size_t length) {
    const auto* from = static_cast<const uint8_t*>(data);
    out_.insert(out_.end(), from, from + length);
    return *this;
  }
  Writer& zeros(size_t length) {
    out_.resize(out_.size() + length);
    return *this;
  }

 private:
  Writer& put(uint64_t value, unsigned bytes) {
    while (bytes-- > 0) out_.push_back(static_cast<uint8_t>(value >> (bytes * 8)));
    return *this;
  }
  std::vector<uint8_t>& out_;
};

// Reads them back. Past the end everything is zero and `ok` is false for good.
class Reader {
 public:
  Reader(const uint8_t* data, size_t length) : data_(data), left_(length) {}
  bool ok() const { return ok_; }
  // Everything was read, and no more.
  bool done() const { return ok_ && left_ == 0; }
  uint16_t u16() { return static_cast<uint16_t>(get(2)); }
  uint32_t u32() { return static_cast<uint32_t>(get(4)); }
  uint64_t u64() { return get(8); }
  std::string text(size_t length) {
    if (length > left_) return fail(), std::string();
    std::string out(reinterpret_cast<const char*>(data_), length);
    data_ += length;
    left_ -= length;
    return out;
  }

 private:
  void fail() {
    ok_ = false;
    left_ = 0;
  }
  uint64_t get(unsigned bytes) {
    if (bytes > left_) return fail(), 0;
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) value = value << 8 | data_[i];
    data_ += bytes;
    left_ -= bytes;
    return value;
  }
  const uint8_t* data_;
  size_t left_;
  bool ok_ = true;
};

}  // namespace memferry::nbd
