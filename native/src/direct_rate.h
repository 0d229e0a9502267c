// How fast a direct connection may send: the model of BBR (Cardwell et al., ACM Queue 2016). It paces at the
// bandwidth that was delivered and keeps in flight what the path holds, so that random loss does not slow it and
// queues stay short. Times are microseconds, sizes bytes. No sockets and no clock of its own.
#pragma once

#include <cstdint>

namespace memferry::direct {

// What was known of the delivery when a packet left.
struct DeliveryMark {
  uint64_t delivered = 0;
  uint64_t deliveredAt = 0;
  uint64_t firstSentAt = 0;
  bool appLimited = false;
};

class Rate {
 public:
  // `rtt`: what the first round trip is thought to take.
  Rate(uint64_t now, uint64_t rtt, uint64_t bytesPerS);

  DeliveryMark sent(uint64_t now, uint64_t inFlight);
  // One acknowledgement, after `bytes` more of it were counted by delivered(): `newest` is of the packet of these that left
  // last.
  void delivered(uint64_t bytes, uint64_t now);
  void acknowledged(const DeliveryMark& newest, uint64_t newestSentAt, uint64_t now, uint64_t inFlight,
                    uint64_t lostBytes);
  // Bytes that were found lost between acknowledgements.
  void lost(uint64_t bytes) { roundLost_ += bytes; }
  void roundTrip(uint64_t rtt, uint64_t now);
  // There is nothing to send although there is room.
  void idle(uint64_t inFlight);

  uint64_t window() const;
  // Bytes a second.
  double pace() const;
  // A timer that is late by no more is made up for.
  uint64_t catchUp() const;
  // What leaves at once.
  uint64_t quantum() const;
  uint64_t minRtt() const { return minRtt_; }
  uint64_t bandwidth() const { return bandwidth_; }
  bool startingUp() const { return state_ == State::startup; }
  bool queueing() const { return queueing_; }

 private:
  enum class State { startup, drain, probeBandwidth, probeRtt };
  void updateBandwidth(uint64_t sample, bool appLimited);
  void newRound(bool appLimited);
  uint64_t bandwidthDelay() const;

  State state_ = State::startup;
  uint64_t delivered_ = 0;
  uint64_t deliveredAt_ = 0;
  uint64_t firstSentAt_ = 0;
  uint64_t appLimitedUntil_ = 0;
  uint64_t roundEnd_ = 0;
  uint64_t round_ = 0;
  uint64_t roundLost_ = 0;
  uint64_t roundDelivered_ = 0;
  bool sampledInRound_ = false;

  // The best of each of the last ten rounds.
  static constexpr unsigned kRounds = 10;
  uint64_t best_[kRounds] = {};
  uint64_t bandwidth_ = 0;
  uint64_t hint_;

  uint64_t minRtt_;
  uint64_t minRttAt_;
  bool minRttKnown_ = false;
  uint64_t fullBandwidth_ = 0;
  unsigned fullRounds_ = 0;
  // Acknowledgements in a row that came late: in startup a queue grows.
  unsigned late_ = 0;
  bool queueing_ = false;
  unsigned queueingRounds_ = 0;
  // What was delivered when the last probe for more began.
  uint64_t probedFrom_ = 0;
  unsigned phase_ = 0;
  uint64_t phaseAt_ = 0;
  uint64_t probeRttUntil_ = 0;
};

}  // namespace memferry::direct
