// The packets of a direct connection, byte by byte. peer/net/paths/README.md says what they mean.
//
//   u8 0xd7, u8 version 1, u16 length of all of it, u32 connection, u64 packet number, frames, and the first 16 bytes of
//   keyed BLAKE3 over all before, with zeros behind it up to a multiple of 64.
//
// What the streams carry is sealed by the peers already; the code makes sure that nobody else can add, change,
// repeat or acknowledge a packet.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace memferry::direct {

constexpr uint8_t kMagic = 0xd7;
constexpr uint8_t kVersion = 1;
constexpr size_t kHeaderBytes = 16;
constexpr size_t kMacBytes = 16;
constexpr size_t kKeyBytes = 32;
// What every path carries (RFC 9000, 14).
constexpr size_t kSafePacketBytes = 1200;
constexpr size_t kMaxPacketBytes = 8952;
constexpr unsigned kStreams = 66;
constexpr size_t kReasonBytesMax = 128;
constexpr unsigned kAckRangesMax = 64;

enum class Frame : uint8_t { padding = 0, stream = 1, ack = 2, window = 3, ping = 4, close = 5 };
// Of a stream frame.
constexpr uint8_t kLastBytes = 1;
constexpr size_t kStreamFrameBytes = 1 + 1 + 2 + 8 + 2;
constexpr size_t kWindowFrameBytes = 1 + 2 + 8;
constexpr size_t kAckRangeBytes = 8;
constexpr size_t kAckFrameBytes = 1 + 8 + 4 + 1 + 4;

class Writer {
 public:
  Writer(uint8_t* at, size_t room) : start_(at), at_(at), end_(at + room) {}
  size_t room() const { return static_cast<size_t>(end_ - at_); }
  size_t length() const { return static_cast<size_t>(at_ - start_); }
  uint8_t* at() { return at_; }
  void skip(size_t count) { at_ += count; }
  void u8(uint8_t value) { *at_++ = value; }
  void u16(uint16_t value) { number(value, 2); }
  void u32(uint32_t value) { number(value, 4); }
  void u64(uint64_t value) { number(value, 8); }
  void bytes(const void* data, size_t count) {
    std::memcpy(at_, data, count);
    at_ += count;
  }

 private:
  void number(uint64_t value, int count) {
    for (int shift = 8 * (count - 1); shift >= 0; shift -= 8) *at_++ = static_cast<uint8_t>(value >> shift);
  }
  uint8_t* start_;
  uint8_t* at_;
  uint8_t* end_;
};

// Every read past the end yields zeros and makes ok() false.
class Reader {
 public:
  Reader(const uint8_t* at, size_t length) : at_(at), end_(at + length) {}
  bool ok() const { return ok_; }
  size_t left() const { return static_cast<size_t>(end_ - at_); }
  uint8_t u8() { return static_cast<uint8_t>(number(1)); }
  uint16_t u16() { return static_cast<uint16_t>(number(2)); }
  uint32_t u32() { return static_cast<uint32_t>(number(4)); }
  uint64_t u64() { return number(8); }
  const uint8_t* bytes(size_t count) {
    if (left() < count) {
      fail();
      return nullptr;
    }
    const uint8_t* here = at_;
    at_ += count;
    return here;
  }

 private:
  void fail() {
    ok_ = false;
    at_ = end_;
  }
  uint64_t number(size_t count) {
    if (left() < count) {
      fail();
      return 0;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < count; i++) value = value << 8 | *at_++;
    return value;
  }
  const uint8_t* at_;
  const uint8_t* end_;
  bool ok_ = true;
};

void authenticate(const uint8_t* key, const uint8_t* data, size_t length, uint8_t* mac);
// The same for `count` packets that stand one after the other, each of `packetBytes` with its code: codes of kMacBytes
// each. One vector instruction does the work of many, which packets by themselves are too short for.
void authenticateMany(const uint8_t* key, const uint8_t* packets, size_t packetBytes, size_t count, uint8_t* macs);
// Puts its code at the end of each packet. All are of `packetBytes`, but the last may be shorter; `length` is of all.
void sealMany(const uint8_t* key, uint8_t* packets, size_t length, size_t packetBytes);
bool equalMacs(const uint8_t* one, const uint8_t* other);
bool authentic(const uint8_t* key, const uint8_t* data, size_t length, const uint8_t* mac);

}  // namespace memferry::direct
