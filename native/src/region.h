// The region: a store, what of it is present and dirty, and who waits for what.
//
// Two kinds of caller. Exports (their own threads) wrap each request in begin()/end() and touch the
// store between them; a hit takes no lock and allocates nothing. The owner (the JS thread) starts
// jobs, which run on the region's IoPool and report through a callback on a pool thread.
//
// Lifetime: shared. shutdown() makes every later begin(), park() and job fail with ESHUTDOWN, joins
// the pool and wipes the key; the object stays safe to call after it. The store's descriptor closes
// when the last reference to it goes.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "atomic_bitmap.h"
#include "chunk_hash.h"
#include "in_flight.h"
#include "io_pool.h"
#include "region_state.h"
#include "store.h"
#include "waiting_room.h"

namespace memferry {

struct RegionOptions {
  StoreOptions store;
  uint64_t bytes = 0;
  uint32_t chunkBytes = 0;
  const uint8_t* hashKey = nullptr;  // 32 bytes, copied
  bool present = false;
  // Beside the region; an empty path: nothing is kept.
  RegionState::Options state;
  Gate gate = Gate::closed;
  unsigned threads = 2;
  // On any thread; must only hand over.
  std::function<void()> onFaults;
  // The bytes are a copy of what is kept elsewhere: who asks for durability waits until the owner has brought there
  // what was written. Called as `onFaults`.
  std::function<void()> onSyncs;
  // Every write waits as if it had asked.
  bool writeThrough = false;
  // evict() may be called.
  bool evictable = false;
};

struct RegionStats {
  uint64_t reads, writes, syncs, misses, bytesRead, bytesWritten, parked, presentChunks, dirtyChunks;
  double firstServedAtMs;
};

// What begin() answers, and what end() wants back.
struct Admission {
  static constexpr int kWait = -1;
  // 0: go on, and call end(). kWait: park. Otherwise the errno to fail with.
  int status = 0;
  unsigned phase = 0;
};

class Region {
 public:
  static std::shared_ptr<Region> open(const RegionOptions& options, Failure& failure);
  ~Region();

  uint64_t bytes() const { return bytes_; }
  uint32_t chunkBytes() const { return chunkBytes_; }
  uint32_t chunkCount() const { return chunkCount_; }
  uint32_t chunkLength(uint32_t chunk) const {
    return chunk + 1 == chunkCount_ ? tailBytes_ : chunkBytes_;
  }
  uint64_t chunkOffset(uint32_t chunk) const { return uint64_t{chunk} * chunkBytes_; }
  uint32_t chunkAt(uint64_t offset) const { return static_cast<uint32_t>(offset >> chunkShift_); }
  bool readOnly() const { return store_->readOnly(); }

  // For exports. Ranges must lie inside the region and not be empty.
  Admission begin(Access access, uint64_t offset, uint64_t length, bool pass = false);
  // For what is known to be present: the gate alone decides.
  Admission begin(Access access);
  void end(const Admission& admission) { inFlight_.leave(admission.phase); }
  int readAt(uint8_t* into, size_t length, uint64_t offset);
  int writeAt(const uint8_t* from, size_t length, uint64_t offset);
  // The bytes themselves, where they are in memory and looking at them costs none; else null. Good while the
  // region lives. Counts as a read.
  const uint8_t* view(uint64_t offset, size_t length);
  // The place for bytes of a write that is announced before and told of after, or null.
  uint8_t* beginWrite(uint64_t offset, size_t length);
  void endWrite(uint64_t offset, size_t length);
  // Of a write that was made without a call: the mark alone. Between begin() and end().
  void markWritten(uint64_t offset, uint64_t length) {
    keepWritten(chunkAt(offset), chunkAt(offset + length - 1));
    dirty_.addRange(chunkAt(offset), chunkAt(offset + length - 1));
  }
  // A program has these bytes in its hands and may change them without a call; it is told of by endWrite().
  void noteHanded(uint64_t offset, uint64_t length) { zeros_.clearRange(chunkAt(offset), chunkAt(offset + length - 1)); }
  // `keepBlocks`: what is reserved stays so. `fast`: ENOTSUP rather than writing zeros out.
  int zeroAt(uint64_t offset, uint64_t length, bool keepBlocks = false, bool fast = false);
  // Reads as zeros without a look at the store. False: it is not known.
  bool knownZero(uint64_t offset, uint64_t length) const {
    return zeros_.allSet(chunkAt(offset), chunkAt(offset + length - 1));
  }
  // What a range holds, for NBD's block status: neighbours differ. Clipped to the range, at most `most` of them.
  enum class Status { allocation, dirty };
  struct Extent {
    uint64_t length;
    uint32_t flags;  // as NBD has them
  };
  std::vector<Extent> status(Status kind, uint64_t offset, uint64_t length, size_t most) const;
  WaitingRoom& waiting() { return waiting_; }
  InFlight& inFlight() { return inFlight_; }
  // Not counted as in flight: it writes nothing that quiesce() could be waiting for. ESTALE if fenced.
  int syncForExport();
  // Who wants what it wrote to be durable calls this first; answers as WaitingRoom::park(), and -1 where there is
  // nothing to wait for, or was and is over.
  int awaitSync(Waiter& waiter);
  bool writesThrough() const { return writeThrough_; }
  bool evictable() const { return evictable_; }

  // Tells of each chunk that a store with `ifAbsent` has made present, on a pool thread, which it must not hold
  // up. Until forgetArrivals() returns.
  void onArrival(const void* who, std::function<void(uint32_t)> tell);
  void forgetArrivals(const void* who);

  // For the owner. `done` runs once on a pool thread.
  struct ReadJob {
    std::vector<uint32_t> chunks;
    uint8_t* into = nullptr;  // null: hash only
    std::vector<uint8_t> hashes;
    std::vector<uint8_t> zero;
    Failure failure;
  };
  struct StoreJob {
    std::vector<uint32_t> chunks;
    std::vector<uint32_t> offsets;
    const uint8_t* bytes = nullptr;
    const uint8_t* hashes = nullptr;
    bool ifAbsent = false;
    std::vector<uint8_t> outcomes;
    Failure failure;
  };
  static constexpr uint32_t kZeroChunk = 0xffffffff;
  enum Outcome : uint8_t { kStored = 0, kMismatch = 1, kSkipped = 2 };
  void read(std::shared_ptr<ReadJob> job, std::function<void()> done);
  void store(std::shared_ptr<StoreJob> job, std::function<void()> done);
  void sync(std::function<void(Failure)> done);
  // sync(), and then what was present before it is so after a crash of the host. Without a state: sync().
  void checkpoint(std::function<void(Failure)> done);
  // Takes chunks away that are present and hold nothing of their own. `done` gets those that are gone; the others were
  // written meanwhile, or somebody was at them.
  void evict(std::vector<uint32_t> chunks, std::function<void(std::vector<uint32_t>)> done);
  RegionState* state() const { return state_.get(); }
  int descriptor() const { return store_->descriptor(); }

  AtomicBitmap& dirty() { return dirty_; }
  const AtomicBitmap& present() const { return present_; }
  void setPresent(const uint8_t* bitmap);
  Gate gate() const { return waiting_.gate(); }
  void setGate(Gate gate);
  RegionStats stats() const;

  // Names this region within the process, for other environments of it.
  uint64_t id() const { return id_; }
  // Null if no region has this number any more.
  static std::shared_ptr<Region> find(uint64_t id);
  // How many places show it, in all environments.
  void exported(int change) { exports_.fetch_add(change); }
  bool isExported() const { return exports_.load() > 0; }

  // Who is told of chunks that somebody waits for, in place of `onFaults`; null: that one again. Called on any
  // thread; once this returns, whoever was told before is not called any more.
  void listenForFaults(std::function<void()> onFaults);
  // The key of the hashes from here on. No job may be under way whose hashes somebody compares.
  void rekey(const uint8_t* key /* 32 bytes */);
  // Waits until no job is under way that began before: their buffers are about to go.
  void waitForJobs() { jobs_.quiesceAndWait(); }

  // What brings the writes of a mapping of this region to it; may block. Each key once.
  void addFlush(const void* key, std::function<int()> flush);
  void removeFlush(const void* key);
  // What was written through any mapping, in whatever environment, is marked when it answers 0. May block.
  int flushMappings();

  // Blocks until the threads are gone; idempotent, from any thread but the pool's.
  void shutdown();

 private:
  Region(const RegionOptions& options, std::shared_ptr<Store> store, std::shared_ptr<RegionState> state);
  int makeDurable();
  Admission enter(Access access, bool pass);
  // Counts a job until it is done.
  std::function<void()> counted(std::function<void()> done);
  void markPresent(uint32_t chunk);
  void keepWritten(uint32_t first, uint32_t last) {
    if (state_ && state_->keepsWrites()) state_->markWritten(first, last);
  }
  bool takeAway(uint32_t chunk);

  Failure readChunk(ReadJob& job, size_t position, std::vector<uint8_t>& scratch);
  Failure storeChunk(StoreJob& job, size_t position);
  int writeChunk(uint32_t chunk, const uint8_t* bytes);
  void grantIfAsked(uint32_t chunk);
  Extent allocationAt(uint64_t offset, uint64_t end) const;
  Extent dirtyAt(uint64_t offset, uint64_t end) const;
  void served();
  void tellArrival(uint32_t chunk);
  void tellFaults();
  std::shared_ptr<const ChunkHash> hash() const { return hash_.load(); }
  void learnHoles();
  bool anyKnownZero(uint32_t first, uint32_t last) const;

  const uint64_t bytes_;
  const uint32_t chunkBytes_;
  const unsigned chunkShift_;
  const uint32_t chunkCount_;
  const uint32_t tailBytes_;
  const std::shared_ptr<Store> store_;
  const std::shared_ptr<RegionState> state_;
  // Replaced whole by rekey(): a job goes on with the one that it began with.
  std::atomic<std::shared_ptr<const ChunkHash>> hash_;

  AtomicBitmap present_;
  AtomicBitmap dirty_;
  // A chunk is claimed while somebody decides whether it becomes present: see storeChunk.
  AtomicBitmap claimed_;
  // Chunks that setPresent wants present and found claimed: see grantIfAsked.
  AtomicBitmap granted_;
  // Chunks known to read as zeros, so that storing zeros again costs nothing. Only ever a hint in
  // the direction "not known".
  AtomicBitmap zeros_;

  std::mutex listenMutex_;
  const std::function<void()> onFaults_;
  const std::function<void()> onSyncs_;
  const bool writeThrough_;
  const bool evictable_;
  std::function<void()> listener_;
  std::mutex flushMutex_;
  std::unordered_map<const void*, std::function<int()>> flushes_;

  WaitingRoom waiting_;
  InFlight inFlight_;
  InFlight jobs_;
  std::atomic<bool> shutdown_{false};
  uint64_t id_ = 0;
  std::atomic<int> exports_{0};

  std::atomic<uint64_t> reads_{0}, writes_{0}, syncs_{0}, bytesRead_{0}, bytesWritten_{0};
  std::atomic<double> firstServedAtMs_{0};

  std::mutex arrivalsMutex_;
  std::vector<std::pair<const void*, std::function<void(uint32_t)>>> onArrival_;

  std::mutex shutdownMutex_;
  // One lane for fdatasync: it can take seconds and must not hold up a fault.
  IoPool syncPool_{1};
  IoPool pool_;
};

}  // namespace memferry
