#include "waiting_room.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace memferry {

WaitingRoom::WaitingRoom(const AtomicBitmap& present, Gate gate, std::function<void()> onFaults)
    : present_(present), onFaults_(std::move(onFaults)), gate_(gate), reported_(present.bits()) {}

int WaitingRoom::park(Waiter& waiter) {
  bool report = false;
  {
    const std::lock_guard lock(mutex_);
    if (shut_) return shut_;
    const Gate gate = gate_.load();
    if (gate == Gate::fenced) return ESTALE;
    waiter.missing_ = 0;
    if (blocks(gate, waiter.access, waiter.pass)) {
      waiter.state_ = Waiter::State::gate;
    } else {
      for (uint32_t chunk = waiter.first; chunk <= waiter.last; chunk++) {
        if (present_.test(chunk)) continue;
        waiter.missing_++;
        byChunk_[chunk].push_back(&waiter);
        if (reported_.set(chunk)) {
          // One call up for the whole batch: whoever takes the faults empties the list.
          report = report || faults_.empty();
          faults_.push_back(chunk);
        }
      }
      if (waiter.missing_ == 0) return -1;
      waiter.state_ = Waiter::State::chunks;
      if (!waiter.missed) {
        waiter.missed = true;
        misses_.fetch_add(1, std::memory_order_relaxed);
      }
    }
    waiter.place_ = all_.insert(all_.end(), &waiter);
  }
  if (report) onFaults_();
  return 0;
}

int WaitingRoom::parkSync(Waiter& waiter, const std::function<void()>& onSyncs) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    if (shut_) return shut_;
    if (gate_.load() == Gate::fenced) return ESTALE;
    waiter.state_ = Waiter::State::sync;
    waiter.syncGroup_ = syncGroup_;
    first = inSyncGroup_++ == 0;
    waiter.place_ = all_.insert(all_.end(), &waiter);
  }
  if (first) onSyncs();
  return 0;
}

uint64_t WaitingRoom::takeSyncs() {
  const std::lock_guard lock(mutex_);
  inSyncGroup_ = 0;
  return syncGroup_++;
}

void WaitingRoom::settleSyncs(uint64_t group, int error) {
  std::vector<Waiter*> ready;
  {
    const std::lock_guard lock(mutex_);
    for (auto at = all_.begin(); at != all_.end();) {
      Waiter* waiter = *at++;
      if (waiter->state_ != Waiter::State::sync || waiter->syncGroup_ > group) continue;
      removeLocked(*waiter);
      waiter->synced = error == 0;
      ready.push_back(waiter);
    }
  }
  for (Waiter* waiter : ready) waiter->wake(error);
}

bool WaitingRoom::cancel(Waiter& waiter) {
  const std::lock_guard lock(mutex_);
  if (waiter.state_ == Waiter::State::outside) return false;
  removeLocked(waiter);
  return true;
}

void WaitingRoom::removeLocked(Waiter& waiter) {
  if (waiter.state_ == Waiter::State::chunks) {
    for (uint32_t chunk = waiter.first; chunk <= waiter.last && waiter.missing_ > 0; chunk++) {
      const auto entry = byChunk_.find(chunk);
      if (entry == byChunk_.end()) continue;
      if (std::erase(entry->second, &waiter) > 0) waiter.missing_--;
      if (entry->second.empty()) byChunk_.erase(entry);
    }
  }
  waiter.state_ = Waiter::State::outside;
  all_.erase(waiter.place_);
}

void WaitingRoom::setGate(Gate gate) {
  std::vector<Waiter*> ready;
  {
    const std::lock_guard lock(mutex_);
    gate_.store(gate);
    if (gate == Gate::fenced) {
      ready = takeAllLocked();
    } else {
      for (auto at = all_.begin(); at != all_.end();) {
        Waiter* waiter = *at++;
        if (waiter->state_ != Waiter::State::gate || blocks(gate, waiter->access, waiter->pass)) continue;
        removeLocked(*waiter);
        ready.push_back(waiter);
      }
    }
  }
  for (Waiter* waiter : ready) waiter->wake(gate == Gate::fenced ? ESTALE : 0);
}

void WaitingRoom::wakeChunkLocked(std::unordered_map<uint32_t, std::vector<Waiter*>>::iterator entry,
                                  std::vector<Waiter*>& ready) {
  for (Waiter* waiter : entry->second) {
    if (--waiter->missing_ > 0) continue;
    waiter->state_ = Waiter::State::outside;
    all_.erase(waiter->place_);
    ready.push_back(waiter);
  }
}

void WaitingRoom::arrived(uint32_t chunk) {
  std::vector<Waiter*> ready;
  {
    const std::lock_guard lock(mutex_);
    const auto entry = byChunk_.find(chunk);
    if (entry == byChunk_.end()) return;
    wakeChunkLocked(entry, ready);
    byChunk_.erase(entry);
  }
  for (Waiter* waiter : ready) waiter->wake(0);
}

void WaitingRoom::arrivedMany() {
  std::vector<Waiter*> ready;
  {
    const std::lock_guard lock(mutex_);
    for (auto entry = byChunk_.begin(); entry != byChunk_.end();) {
      if (!present_.test(entry->first)) {
        ++entry;
        continue;
      }
      wakeChunkLocked(entry, ready);
      entry = byChunk_.erase(entry);
    }
  }
  for (Waiter* waiter : ready) waiter->wake(0);
}

void WaitingRoom::leftAgain(uint32_t chunk) {
  bool report = false;
  {
    const std::lock_guard lock(mutex_);
    reported_.clear(chunk);
    if (byChunk_.contains(chunk)) {
      reported_.set(chunk);
      report = faults_.empty();
      faults_.push_back(chunk);
    }
  }
  if (report) onFaults_();
}

std::vector<Waiter*> WaitingRoom::takeAllLocked() {
  std::vector<Waiter*> taken(all_.begin(), all_.end());
  all_.clear();
  for (Waiter* waiter : taken) waiter->state_ = Waiter::State::outside;
  // Nobody waits for these any more, so the next who does is news again.
  for (const auto& [chunk, waiters] : byChunk_) reported_.clear(chunk);
  byChunk_.clear();
  for (const uint32_t chunk : faults_) reported_.clear(chunk);
  faults_.clear();
  return taken;
}

void WaitingRoom::failAll(int error) {
  std::vector<Waiter*> failed;
  {
    const std::lock_guard lock(mutex_);
    failed = takeAllLocked();
  }
  for (Waiter* waiter : failed) waiter->wake(error);
}

void WaitingRoom::shut(int error) {
  {
    const std::lock_guard lock(mutex_);
    shut_ = error;
  }
  failAll(error);
}

std::vector<uint32_t> WaitingRoom::takeFaults() {
  const std::lock_guard lock(mutex_);
  return std::exchange(faults_, {});
}

void WaitingRoom::retryFaults() {
  {
    const std::lock_guard lock(mutex_);
    // Chunks that were reported and that nobody waits for now (their reader was killed) are forgotten,
    // or a later reader of such a chunk would wait for a report that never comes.
    for (size_t i = 0; i < reported_.words(); i++) reported_.word(i).store(0);
    faults_.clear();
    for (const auto& [chunk, waiters] : byChunk_) {
      reported_.set(chunk);
      faults_.push_back(chunk);
    }
    if (faults_.empty()) return;
    std::sort(faults_.begin(), faults_.end());
  }
  onFaults_();
}

std::vector<Range> WaitingRoom::parkedReads(const void* owner) const {
  std::vector<Range> ranges;
  const std::lock_guard lock(mutex_);
  for (const Waiter* waiter : all_) {
    if (waiter->owner == owner && waiter->access == Access::read && waiter->locksPages) {
      ranges.push_back({waiter->offset, waiter->length});
    }
  }
  return ranges;
}

std::vector<Range> WaitingRoom::releaseReads(const void* owner, const Range& range) {
  std::vector<Range> released;
  std::vector<Waiter*> ready;
  {
    const std::lock_guard lock(mutex_);
    if (gate_.load() != Gate::draining) return {};
    for (auto at = all_.begin(); at != all_.end();) {
      Waiter* waiter = *at++;
      if (waiter->owner != owner || waiter->state_ != Waiter::State::gate) continue;
      if (waiter->offset >= range.offset + range.length ||
          range.offset >= waiter->offset + waiter->length) {
        continue;
      }
      removeLocked(*waiter);
      waiter->pass = true;
      ready.push_back(waiter);
      released.push_back({waiter->offset, waiter->length});
    }
  }
  for (Waiter* waiter : ready) waiter->wake(0);
  return released;
}

size_t WaitingRoom::parked() const {
  const std::lock_guard lock(mutex_);
  return all_.size();
}

}  // namespace memferry
