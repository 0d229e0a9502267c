// Counts requests that are under way, and tells when all that began before a moment have ended.
//
// One atomic word, no lock on the way in or out: two counters and a phase bit that says which of them
// new requests join. quiesce() flips the phase and waits for the old counter, so a stream of new
// requests cannot hold it up. Counter and phase share a word because a request that read the phase,
// slept, and then counted itself in the old counter would be missed by the quiesce it began before.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

namespace memferry {

class InFlight {
 public:
  // Returns the phase joined; hand it to leave().
  unsigned enter() {
    uint64_t word = word_.load();
    for (;;) {
      const unsigned phase = phaseOf(word);
      if (word_.compare_exchange_weak(word, word + one(phase))) return phase;
    }
  }

  void leave(unsigned phase) {
    const uint64_t before = word_.fetch_sub(one(phase));
    // The last one out of a phase that no longer admits: exactly one caller sees this per flip.
    if (phaseOf(before) != phase && countOf(before, phase) == 1) drained();
  }

  // `done` runs once, on this thread or on the thread of the last request to end; it must only hand
  // over. Calls that come while one waits share the next flip.
  void quiesce(std::function<void()> done);
  // The same, and waits. Not from a thread that is itself between enter() and leave().
  void quiesceAndWait();

 private:
  static constexpr uint64_t one(unsigned phase) { return phase ? 1ull << 31 : 1ull; }
  static constexpr unsigned phaseOf(uint64_t word) { return static_cast<unsigned>(word >> 63); }
  static constexpr uint64_t countOf(uint64_t word, unsigned phase) {
    return (word >> (phase ? 31 : 0)) & 0x7fffffffull;
  }

  void drained();
  // Under the mutex. Moves the queue into `done` as long as nothing is left to wait for.
  void flip(std::vector<std::function<void()>>& done);

  std::atomic<uint64_t> word_{0};
  std::mutex mutex_;
  bool draining_ = false;
  std::vector<std::function<void()>> queued_;
  std::vector<std::function<void()>> running_;
};

}  // namespace memferry
