#include "direct_rate.h"

#include <algorithm>

namespace memferry::direct {
namespace {

// Faster than the doubling of 2 / ln 2, as the end of startup is seen early; what may be in flight bounds what that costs.
constexpr double kStartupGain = 4;
constexpr double kStartupWindow = 2.5;
constexpr double kGains[] = {1.25, 0.75, 1, 1, 1, 1, 1, 1};
constexpr unsigned kPhases = sizeof kGains / sizeof kGains[0];
constexpr uint64_t kMinRttAge = 10'000'000;
constexpr uint64_t kProbeRttTime = 200'000;
// In startup nothing is known but this (RFC 6928 allows ten segments; a peer that was just measured is no stranger).
constexpr uint64_t kInitialWindow = 48 * 1024;
constexpr uint64_t kLeastWindow = 4 * 1500;
// Bytes that one send call hands to the kernel.
constexpr uint64_t kMostAtOnce = 60 * 1024;
constexpr uint64_t kBurst = 1'000;
// A round that lost this much in startup has found the end of the queue.
constexpr double kStartupLoss = 0.02;
// Startup ends as soon as a queue grows (HyStart++, RFC 9406, with as many samples): at its rate it would overflow one
// round trip later, and what is lost then holds up the streams for another two.
constexpr uint64_t kLateLeast = 4'000;
constexpr uint64_t kLateMost = 16'000;
constexpr unsigned kLateSamples = 8;
// What is in flight when the queue is seen was sent at less than the path carries, in part: so many rounds measure it.
constexpr unsigned kQueueingRounds = 2;
// A probe that was delivered by this much more found no queue: there is more where that came from.
constexpr double kProbeGrowth = 1.15;

}  // namespace

Rate::Rate(uint64_t now, uint64_t rtt, uint64_t bytesPerS)
    : deliveredAt_(now), firstSentAt_(now), hint_(bytesPerS), minRtt_(std::max<uint64_t>(rtt, 100)), minRttAt_(now) {}

DeliveryMark Rate::sent(uint64_t now, uint64_t inFlight) {
  if (inFlight == 0) {
    firstSentAt_ = now;
    deliveredAt_ = now;
  }
  return {delivered_, deliveredAt_, firstSentAt_, appLimitedUntil_ != 0};
}

void Rate::delivered(uint64_t bytes, uint64_t now) {
  delivered_ += bytes;
  roundDelivered_ += bytes;
  deliveredAt_ = now;
  if (delivered_ > appLimitedUntil_) appLimitedUntil_ = 0;
}

void Rate::acknowledged(const DeliveryMark& newest, uint64_t newestSentAt, uint64_t now, uint64_t inFlight,
                        uint64_t lostBytes) {
  roundLost_ += lostBytes;
  firstSentAt_ = newestSentAt;
  const uint64_t elapsed = std::max(newestSentAt - newest.firstSentAt, now - newest.deliveredAt);
  if (elapsed > 0 && delivered_ > newest.delivered) {
    // Faster than the shortest round trip it cannot be measured.
    const uint64_t over = minRttKnown_ ? std::max(elapsed, std::min<uint64_t>(minRtt_, 1'000'000)) : elapsed;
    updateBandwidth((delivered_ - newest.delivered) * 1'000'000 / over, newest.appLimited);
  }
  if (newest.delivered >= roundEnd_) newRound(newest.appLimited);

  if (state_ == State::drain && inFlight <= bandwidthDelay()) {
    state_ = State::probeBandwidth;
    // What only came late may not have found a queue: asked at once, the path says so.
    phase_ = queueing_ ? 0 : 2;
    probedFrom_ = bandwidth_;
    phaseAt_ = now;
  }
  if (state_ == State::probeBandwidth && now - phaseAt_ > minRtt_) {
    // What the probe left in the queue goes in one round trip. Longer only if more stands there: each such round trip
    // costs a quarter of its bytes, and receivers that acknowledge late make a full path look fuller.
    const bool drained = kGains[phase_] >= 1 || inFlight <= bandwidthDelay() + bandwidthDelay() / 8 + 2 * quantum();
    if (drained || now - phaseAt_ > 3 * minRtt_) {
      if (phase_ == 1 && static_cast<double>(bandwidth_) > kProbeGrowth * static_cast<double>(probedFrom_)) {
        state_ = State::startup;
        fullBandwidth_ = bandwidth_;
        fullRounds_ = late_ = 0;
        queueing_ = false;
        return;
      }
      phase_ = (phase_ + 1) % kPhases;
      if (phase_ == 0) probedFrom_ = bandwidth_;
      phaseAt_ = now;
    }
  }
  if (state_ == State::probeBandwidth && now - minRttAt_ > kMinRttAge) {
    state_ = State::probeRtt;
    probeRttUntil_ = now + std::max(kProbeRttTime, minRtt_);
    minRttKnown_ = false;
  } else if (state_ == State::probeRtt && now > probeRttUntil_) {
    minRttAt_ = now;
    state_ = State::probeBandwidth;
    phase_ = 2;
    phaseAt_ = now;
  }
}

void Rate::updateBandwidth(uint64_t sample, bool appLimited) {
  // A sender that had nothing to send has measured itself, unless it was faster than ever.
  if (appLimited && sample < bandwidth_) return;
  sampledInRound_ = true;
  uint64_t& best = best_[round_ % kRounds];
  best = std::max(best, sample);
  bandwidth_ = *std::max_element(best_, best_ + kRounds);
}

void Rate::newRound(bool appLimited) {
  roundEnd_ = delivered_;
  const double lost = static_cast<double>(roundLost_) / static_cast<double>(std::max<uint64_t>(1, roundLost_ + roundDelivered_));
  // A sender that had little to send has found no limit but its own, unless it has lost what it sent.
  if (state_ == State::startup && (lost > kStartupLoss || (sampledInRound_ && !appLimited))) {
    if (static_cast<double>(bandwidth_) >= 1.25 * static_cast<double>(fullBandwidth_)) {
      fullBandwidth_ = bandwidth_;
      fullRounds_ = 0;
    } else {
      fullRounds_ += lost > kStartupLoss ? 3 : 1;
    }
    if (fullRounds_ >= 3) state_ = State::drain;
  }
  if (state_ == State::startup && queueing_ && ++queueingRounds_ > kQueueingRounds) state_ = State::drain;
  // Rounds without a sample say nothing and push nothing out.
  if (sampledInRound_) {
    round_++;
    best_[round_ % kRounds] = 0;
    bandwidth_ = *std::max_element(best_, best_ + kRounds);
  }
  sampledInRound_ = false;
  roundLost_ = 0;
  roundDelivered_ = 0;
}

void Rate::roundTrip(uint64_t rtt, uint64_t now) {
  if (state_ == State::startup && minRttKnown_) {
    late_ = rtt > minRtt_ + std::clamp(minRtt_ / 8, kLateLeast, kLateMost) ? late_ + 1 : 0;
    if (late_ >= kLateSamples && !queueing_) {
      queueing_ = true;
      queueingRounds_ = 0;
    }
  }
  if (minRttKnown_ && rtt > minRtt_) return;
  minRtt_ = std::max<uint64_t>(rtt, 50);
  minRttAt_ = now;
  minRttKnown_ = true;
}

void Rate::idle(uint64_t inFlight) { appLimitedUntil_ = std::max<uint64_t>(1, delivered_ + inFlight); }

uint64_t Rate::bandwidthDelay() const {
  return static_cast<uint64_t>(static_cast<double>(bandwidth_) * static_cast<double>(minRtt_) / 1e6);
}

uint64_t Rate::window() const {
  const uint64_t start = std::max(kInitialWindow, static_cast<uint64_t>(static_cast<double>(hint_) * static_cast<double>(minRtt_) / 1e6));
  if (bandwidth_ == 0) return start;
  const uint64_t held = bandwidthDelay();
  switch (state_) {
    case State::startup:
      if (queueing_) return std::max(start, 2 * held + 3 * quantum());
      return std::max(start, static_cast<uint64_t>(kStartupWindow * static_cast<double>(held)) + 3 * quantum());
    case State::probeRtt:
      return std::max(kLeastWindow, held / 2);
    default:
      return std::max(kLeastWindow, 2 * held + 3 * quantum());
  }
}

double Rate::pace() const {
  const double bandwidth = static_cast<double>(bandwidth_);
  switch (state_) {
    case State::startup:
      if (queueing_) return std::max(bandwidth, 1.0);
      // Never below what it begins with: pings have measured nothing.
      return std::max({kStartupGain * bandwidth, static_cast<double>(hint_),
                       kStartupGain * static_cast<double>(kInitialWindow) * 1e6 / static_cast<double>(minRtt_)});
    case State::drain:
      return bandwidth / kStartupGain;
    case State::probeBandwidth:
      return kGains[phase_] * bandwidth;
    default:
      return bandwidth;
  }
}

uint64_t Rate::catchUp() const { return std::clamp<uint64_t>(minRtt_ / 4, 2'000, 10'000); }

uint64_t Rate::quantum() const {
  return std::clamp<uint64_t>(static_cast<uint64_t>(pace() * kBurst / 1e6), 2 * 1500, kMostAtOnce);
}

}  // namespace memferry::direct
