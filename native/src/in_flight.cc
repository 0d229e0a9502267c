#include "in_flight.h"

#include <iterator>
#include <memory>
#include <semaphore>
#include <utility>

namespace memferry {

void InFlight::quiesce(std::function<void()> done) {
  std::vector<std::function<void()>> ready;
  {
    const std::lock_guard lock(mutex_);
    queued_.push_back(std::move(done));
    if (!draining_) flip(ready);
  }
  for (auto& call : ready) call();
}

void InFlight::quiesceAndWait() {
  // Shared with the callback: release() may still run when acquire() has returned.
  auto signal = std::make_shared<std::binary_semaphore>(0);
  quiesce([signal] { signal->release(); });
  signal->acquire();
}

void InFlight::drained() {
  std::vector<std::function<void()>> ready;
  {
    const std::lock_guard lock(mutex_);
    ready = std::move(running_);
    running_.clear();
    draining_ = false;
    if (!queued_.empty()) flip(ready);
  }
  for (auto& call : ready) call();
}

void InFlight::flip(std::vector<std::function<void()>>& done) {
  // The phase that we flip to is empty: the flip before this one waited for it.
  const uint64_t before = word_.fetch_xor(1ull << 63);
  if (countOf(before, phaseOf(before)) == 0) {
    std::move(queued_.begin(), queued_.end(), std::back_inserter(done));
    queued_.clear();
    return;
  }
  draining_ = true;
  running_ = std::move(queued_);
  queued_.clear();
}

}  // namespace memferry
