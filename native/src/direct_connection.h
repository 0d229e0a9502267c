// One direct connection between two peers: reliable streams over datagrams. It neither has a socket nor a clock, so a
// test can run it over any network in no time. Times are microseconds of one monotonic clock. No locks.
//
// Both peers know the streams by number, as the relay's pairings do; a stream exists from its first use. When one of
// them is to be dropped the whole connection is: the peers make a new one.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "direct_rate.h"
#include "direct_streams.h"
#include "direct_wire.h"
#include "range_set.h"

namespace memferry::direct {

struct ConnectionOptions {
  uint32_t id = 0;
  std::array<uint8_t, kKeyBytes> sendKey{};
  std::array<uint8_t, kKeyBytes> receiveKey{};
  // What the punching measured.
  uint64_t rtt = 100'000;
  // What another path to the same peer carries, in bytes a second: it is begun with half of it. 0: nothing is known.
  uint64_t bytesPerS = 0;
  // This side will have much to send: until then it finds out with padding how much the path carries.
  bool warm = false;
};

// Equal packets that leave in one call, the last one may be shorter.
struct Batch {
  std::vector<uint8_t> bytes;
  size_t packetBytes = 0;
  // It is larger than this path is known to carry.
  bool probe = false;
};

struct ConnectionStats {
  uint64_t packetsSent = 0;
  uint64_t packetsReceived = 0;
  uint64_t packetsLost = 0;
  uint64_t packetsRefused = 0;
  uint64_t bytesSent = 0;
  uint64_t bytesReceived = 0;
  uint64_t rtt = 0;
  uint64_t minRtt = 0;
  uint64_t bandwidth = 0;
  uint64_t inFlight = 0;
  uint64_t window = 0;
  uint64_t packetBytes = 0;
  uint64_t silentFor = 0;
};

class Connection {
 public:
  // A side that heard nothing for this long gives up: well below the six seconds in which a migration is to go on.
  static constexpr uint64_t kSilenceMax = 3'500'000;

  Connection(const ConnectionOptions& options, uint64_t now);

  // Whether it was a packet of this connection; else it was ignored. `newest`: it is the latest one that the other
  // side sent, so where it came from is where that side is.
  // `mac`: what expect() said of it, if it was asked.
  bool receive(const uint8_t* data, size_t length, uint64_t now, bool& newest, const uint8_t* mac = nullptr);
  // The codes that packets of equal size, one after the other, should have. False if they are not of this connection.
  bool expect(const uint8_t* packets, size_t packetBytes, size_t count, uint8_t* macs) const;
  // What is to be sent now; false: nothing before nextAt().
  bool transmit(uint64_t now, Batch& batch);
  // Runs what is due.
  void tick(uint64_t now);
  uint64_t nextAt(uint64_t now) const;
  // The local network refuses packets of this size.
  void tooLarge(size_t packetBytes);

  void write(unsigned stream, const uint8_t* data, size_t length);
  uint64_t unsent(unsigned stream) const { return sends_[stream] ? sends_[stream]->unsent() : 0; }
  void end(unsigned stream);
  uint64_t readable(unsigned stream) const { return receives_[stream] ? receives_[stream]->readable() : 0; }
  bool finished(unsigned stream) const { return receives_[stream] && receives_[stream]->finished(); }
  size_t read(unsigned stream, uint8_t* out, size_t length);
  // Streams that have more to read, or are finished, since the last call.
  std::vector<unsigned> takeReadable();
  // Everything written has arrived.
  bool settled() const;

  // Says so to the other side. Nothing works afterwards.
  void close(uint16_t code, std::string reason);
  bool closed() const { return closed_; }
  uint16_t closeCode() const { return closeCode_; }
  const std::string& closeReason() const { return closeReason_; }
  ConnectionStats stats(uint64_t now) const;

 private:
  enum class Fate : uint8_t { inFlight, acknowledged, lost };
  static constexpr unsigned kSegmentsMax = 3;
  struct Sent {
    uint64_t at = 0;
    DeliveryMark mark;
    uint32_t bytes = 0;
    Fate fate = Fate::inFlight;
    bool eliciting = false;
    bool window = false;
    bool mtuProbe = false;
    uint8_t segments = 0;
    Segment segment[kSegmentsMax];
  };

  ReceiveStream& receiveStream(unsigned stream);
  SendStream& sendStream(unsigned stream);
  bool frames(Reader& reader, uint64_t now, bool& eliciting);
  bool streamFrame(Reader& reader, bool& eliciting);
  bool ackFrame(Reader& reader, uint64_t now);
  void loseOld(uint64_t now, uint64_t& lostBytes);
  void lose(Sent& sent);
  void settle(Sent& sent);
  void forgetOld(uint64_t now);
  size_t build(uint8_t* out, size_t room, uint64_t now, bool bulk);
  void writeAck(Writer& writer, uint64_t now);
  void writeWindows(Writer& writer, uint64_t now, Sent& sent);
  void writeStreams(Writer& writer, Sent& sent);
  void writePadding(Writer& writer, Sent& sent);
  size_t finish(Writer& writer, uint8_t* out, Sent& sent, uint64_t now);
  bool hasStreamData() const;
  bool warms() const;
  uint64_t lossDelay() const;
  uint64_t probeTimeout() const;
  bool probeMtu(uint64_t now, Batch& batch);

  ConnectionOptions options_;
  Rate rate_;
  std::array<std::unique_ptr<SendStream>, kStreams> sends_;
  std::array<std::unique_ptr<ReceiveStream>, kStreams> receives_;
  std::array<uint64_t, kStreams> peerLimits_{};
  std::array<bool, kStreams> windowDue_{};
  std::array<bool, kStreams> readable_{};
  bool anyWindowDue_ = false;
  unsigned turn_ = 2;
  uint64_t warmBytes_ = 0;
  bool bulkBegun_ = false;

  uint64_t nextNumber_ = 1;
  uint64_t base_ = 1;
  std::deque<Sent> sent_;
  uint64_t largestAcknowledged_ = 0;
  uint64_t inFlight_ = 0;
  uint64_t sendAt_ = 0;
  uint64_t lastElicitingAt_ = 0;
  uint64_t lostAt_ = 0;
  unsigned timeouts_ = 0;
  unsigned probesDue_ = 0;
  uint64_t rtt_ = 0;
  uint64_t rttVariation_ = 0;
  uint64_t latestRtt_ = 0;
  // Parts of eight by which a packet may be late before it counts as lost.
  uint64_t patience_ = 1;

  RangeSet received_;
  uint64_t receivedFloor_ = 0;
  uint64_t largestReceived_ = 0;
  uint64_t largestReceivedAt_ = 0;
  uint64_t heardAt_;
  unsigned unacknowledged_ = 0;
  uint64_t ackDueAt_ = 0;
  uint64_t windows_ = 0;

  size_t packetBytes_ = kSafePacketBytes;
  unsigned mtuStep_ = 0;
  unsigned mtuTries_ = 0;
  bool mtuProbing_ = false;
  uint64_t mtuProbeAt_ = 0;

  bool closed_ = false;
  unsigned closesDue_ = 0;
  uint16_t closeCode_ = 0;
  std::string closeReason_;
  ConnectionStats stats_;
};

}  // namespace memferry::direct
