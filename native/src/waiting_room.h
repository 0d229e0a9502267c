// Where requests wait: for a gate to open, for chunks to arrive, or for what was written to be brought elsewhere.
//
// Holds the gate, because "see the gate shut, then park" and "open the gate, then wake who is parked"
// must not interleave; the same goes for "see the chunk absent, then park" and "mark it present, then
// wake". Both re-check under the one mutex here. The mutex is never held across I/O, and a request
// that hits takes it not at all.
//
// Who frees: a Waiter belongs to its maker again as soon as it is out of the room, which is when
// wake() is called on it or when cancel() answers true, never both.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "atomic_bitmap.h"

namespace memferry {

enum class Gate { open, draining, closed, fenced };
enum class Access { read, write };

class Waiter {
 public:
  virtual ~Waiter() = default;
  // 0: try again; otherwise fail with this errno. Called on the thread that ended the wait, with no
  // lock held; must only hand over.
  virtual void wake(int error) = 0;

  Access access = Access::read;
  // Chunks needed, both ends included.
  uint32_t first = 0;
  uint32_t last = 0;
  // For telling the waiters of one exported file apart, and where in the file they are.
  const void* owner = nullptr;
  uint64_t offset = 0;
  uint64_t length = 0;
  // Its pages in the kernel's cache are locked until it is answered; not so for O_DIRECT.
  bool locksPages = false;
  // Served although the gate is draining: see WaitingRoom::releaseReads.
  bool pass = false;
  // It has been counted as a miss.
  bool missed = false;
  // What was written before it came is where it has to be: see WaitingRoom::parkSync.
  bool synced = false;

 private:
  friend class WaitingRoom;
  enum class State { outside, gate, chunks, sync };
  State state_ = State::outside;
  uint32_t missing_ = 0;
  uint64_t syncGroup_ = 0;
  std::list<Waiter*>::iterator place_;
};

struct Range {
  uint64_t offset = 0;
  uint64_t length = 0;
};

class WaitingRoom {
 public:
  // `onFaults` is told, with no lock held, that takeFaults() has something new.
  WaitingRoom(const AtomicBitmap& present, Gate gate, std::function<void()> onFaults);

  Gate gate() const { return gate_.load(); }
  static bool blocks(Gate gate, Access access, bool pass) {
    if (gate == Gate::closed) return true;
    return gate == Gate::draining && access == Access::read && !pass;
  }

  // 0: parked. Negative: nothing to wait for any more, try again. Positive: refused with this errno.
  int park(Waiter& waiter);
  // Parks until settleSyncs(); answers as park(). `onSyncs` is told, with no lock held, of the first of a group.
  int parkSync(Waiter& waiter, const std::function<void()>& onSyncs);
  // Closes the group of those that are parked now: what they wait for was written before this.
  uint64_t takeSyncs();
  // Wakes who is of this group or an earlier one; 0: all of it is where it has to be.
  void settleSyncs(uint64_t group, int error);
  // True if it was parked and now is not.
  bool cancel(Waiter& waiter);

  void setGate(Gate gate);
  // Call after the chunk's present bit is set.
  void arrived(uint32_t chunk);
  // The same for many chunks at once.
  void arrivedMany();
  // Call after the chunk's present bit is cleared: whoever waits for it, now or later, is news again.
  void leftAgain(uint32_t chunk);
  void failAll(int error);
  // Lets no one in any more: failAll, and park() answers `error` from now on.
  void shut(int error);

  // Chunks to report, each once until retryFaults() or until all who waited for it were failed.
  std::vector<uint32_t> takeFaults();
  void retryFaults();

  // READs of `owner` that are parked now and have their pages locked.
  std::vector<Range> parkedReads(const void* owner) const;
  // Serves those that the draining gate holds within `range`, once; answers what was released.
  std::vector<Range> releaseReads(const void* owner, const Range& range);

  size_t parked() const;
  uint64_t misses() const { return misses_.load(std::memory_order_relaxed); }

 private:
  void removeLocked(Waiter& waiter);
  void wakeChunkLocked(std::unordered_map<uint32_t, std::vector<Waiter*>>::iterator entry,
                       std::vector<Waiter*>& ready);
  std::vector<Waiter*> takeAllLocked();

  const AtomicBitmap& present_;
  const std::function<void()> onFaults_;
  std::atomic<Gate> gate_;
  std::atomic<uint64_t> misses_{0};

  mutable std::mutex mutex_;
  int shut_ = 0;
  std::list<Waiter*> all_;
  std::unordered_map<uint32_t, std::vector<Waiter*>> byChunk_;
  AtomicBitmap reported_;
  std::vector<uint32_t> faults_;
  uint64_t syncGroup_ = 1;
  size_t inSyncGroup_ = 0;
};

}  // namespace memferry
