#include "region.h"

#include <time.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "nbd_wire.h"

namespace memferry {
namespace {

double monotonicMs() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

// The part that several tasks of one job share: the first failure wins, the last task reports.
struct Progress {
  explicit Progress(unsigned tasks, std::function<void()> callback)
      : remaining(tasks), done(std::move(callback)) {}

  void fail(Failure& slot, Failure failure) {
    const std::lock_guard lock(mutex);
    if (!slot) slot = std::move(failure);
    failed = true;
  }
  void finishOne() {
    if (remaining.fetch_sub(1) == 1) done();
  }

  std::atomic<unsigned> remaining;
  std::atomic<bool> failed{false};
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::function<void()> done;
};

// Every region of the process, by its number.
struct Registry {
  std::mutex mutex;
  uint64_t next = 1;
  std::unordered_map<uint64_t, std::weak_ptr<Region>> regions;
};

// Never destroyed: threads may come in any order at the end of a process.
Registry& registry() {
  static auto* const one = new Registry;
  return *one;
}

Failure closedFailure() { return Failure::named("ESHUTDOWN", "the region is closed"); }

}  // namespace

std::shared_ptr<Region> Region::open(const RegionOptions& options, Failure& failure) {
  std::shared_ptr<Store> store = Store::open(options.store, options.bytes, failure);
  if (!store) return nullptr;
  std::shared_ptr<RegionState> state;
  if (!options.state.path.empty()) {
    const auto chunks = static_cast<uint32_t>((options.bytes + options.chunkBytes - 1) / options.chunkBytes);
    state = RegionState::open(options.state, options.bytes, options.chunkBytes, chunks, failure);
    if (!state) return nullptr;
  }
  std::shared_ptr<Region> region(new Region(options, std::move(store), std::move(state)));
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  region->id_ = all.next++;
  all.regions.emplace(region->id_, region);
  return region;
}

Region::~Region() {
  shutdown();
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.regions.erase(id_);
}

std::shared_ptr<Region> Region::find(uint64_t id) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.regions.find(id);
  return found == all.regions.end() ? nullptr : found->second.lock();
}

Region::Region(const RegionOptions& options, std::shared_ptr<Store> store, std::shared_ptr<RegionState> state)
    : bytes_(options.bytes),
      chunkBytes_(options.chunkBytes),
      chunkShift_(static_cast<unsigned>(std::countr_zero(options.chunkBytes))),
      chunkCount_(static_cast<uint32_t>((options.bytes + options.chunkBytes - 1) / options.chunkBytes)),
      tailBytes_(static_cast<uint32_t>(options.bytes - uint64_t{chunkCount_ - 1} * options.chunkBytes)),
      store_(std::move(store)),
      state_(std::move(state)),
      hash_(std::make_shared<const ChunkHash>(options.hashKey, chunkBytes_, tailBytes_)),
      present_(chunkCount_, options.present),
      dirty_(chunkCount_),
      claimed_(chunkCount_),
      granted_(chunkCount_),
      zeros_(chunkCount_, store_->fresh()),
      onFaults_(options.onFaults),
      onSyncs_(options.onSyncs),
      writeThrough_(options.writeThrough),
      evictable_(options.evictable),
      waiting_(present_, options.gate, [this] { tellFaults(); }),
      pool_(options.threads) {
  if (!store_->fresh() && !store_->readOnly()) learnHoles();
  if (!state_) return;
  for (size_t i = 0; i < present_.words(); i++) present_.word(i).fetch_or(state_->word(i));
}

void Region::tellFaults() {
  const std::lock_guard lock(listenMutex_);
  if (listener_) {
    listener_();
  } else if (onFaults_) {
    onFaults_();
  }
}

void Region::listenForFaults(std::function<void()> onFaults) {
  const std::lock_guard lock(listenMutex_);
  listener_ = std::move(onFaults);
}

void Region::rekey(const uint8_t* key) {
  hash_.store(std::make_shared<const ChunkHash>(key, chunkBytes_, tailBytes_));
}

std::function<void()> Region::counted(std::function<void()> done) {
  return [this, phase = jobs_.enter(), done = std::move(done)] {
    done();
    jobs_.leave(phase);
  };
}

void Region::addFlush(const void* key, std::function<int()> flush) {
  const std::lock_guard lock(flushMutex_);
  flushes_.emplace(key, std::move(flush));
}

void Region::removeFlush(const void* key) {
  const std::lock_guard lock(flushMutex_);
  flushes_.erase(key);
}

int Region::flushMappings() {
  std::vector<std::function<int()>> flushes;
  {
    const std::lock_guard lock(flushMutex_);
    for (const auto& [key, flush] : flushes_) flushes.push_back(flush);
  }
  int failure = 0;
  for (const auto& flush : flushes) {
    if (const int error = flush()) failure = error;
  }
  return failure;
}

// Nobody else writes to it: what is a hole now reads as zeros until we write there.
void Region::learnHoles() {
  for (uint64_t offset = 0; offset < bytes_;) {
    uint64_t until = bytes_;
    const bool hole = store_->holeAt(offset, until);
    // Whole chunks only; the last one may be short.
    const uint64_t first = (offset + chunkBytes_ - 1) >> chunkShift_;
    const uint64_t end = until == bytes_ ? chunkCount_ : until >> chunkShift_;
    if (hole && first < end) zeros_.setRange(static_cast<uint32_t>(first), static_cast<uint32_t>(end - 1));
    offset = until;
  }
}

// The state first: once a chunk is served, the workload's bytes may stand in it, and a successor of this
// process must never take them for missing.
void Region::markPresent(uint32_t chunk) {
  if (state_) state_->set(chunk);
  present_.set(chunk);
}

Admission Region::begin(Access access, uint64_t offset, uint64_t length, bool pass) {
  Admission admission = enter(access, pass);
  if (admission.status || present_.allSet(chunkAt(offset), chunkAt(offset + length - 1))) return admission;
  inFlight_.leave(admission.phase);
  admission.status = Admission::kWait;
  return admission;
}

Admission Region::begin(Access access) { return enter(access, false); }

Admission Region::enter(Access access, bool pass) {
  // Counted before the gate is read: whoever shuts the gate and then quiesces either is seen here, or
  // waits for us.
  Admission admission{.status = 0, .phase = inFlight_.enter()};
  const Gate gate = waiting_.gate();
  if (shutdown_.load()) {
    admission.status = ESHUTDOWN;
  } else if (gate == Gate::fenced) {
    admission.status = ESTALE;
  } else if (WaitingRoom::blocks(gate, access, pass)) {
    admission.status = Admission::kWait;
  } else {
    return admission;
  }
  inFlight_.leave(admission.phase);
  return admission;
}

int Region::readAt(uint8_t* into, size_t length, uint64_t offset) {
  if (const uint8_t* const bytes = store_->mapping()) {
    // Chunk by chunk: a look at a hole through the mapping would fill it.
    const uint64_t end = offset + length;
    for (uint64_t at = offset; at < end;) {
      const uint64_t until = std::min(chunkOffset(chunkAt(at)) + chunkBytes_, end);
      if (zeros_.test(chunkAt(at))) {
        std::memset(into + (at - offset), 0, until - at);
      } else {
        std::memcpy(into + (at - offset), bytes + at, until - at);
      }
      at = until;
    }
  } else if (const int error = store_->read(into, length, offset)) {
    return error;
  }
  reads_.fetch_add(1, std::memory_order_relaxed);
  bytesRead_.fetch_add(length, std::memory_order_relaxed);
  served();
  return 0;
}

const uint8_t* Region::view(uint64_t offset, size_t length) {
  // What is looked at may be sent later, and must not be taken away before.
  const uint8_t* const bytes = evictable_ ? nullptr : store_->mapping();
  if (!bytes || anyKnownZero(chunkAt(offset), chunkAt(offset + length - 1))) return nullptr;
  reads_.fetch_add(1, std::memory_order_relaxed);
  bytesRead_.fetch_add(length, std::memory_order_relaxed);
  served();
  return bytes + offset;
}

bool Region::anyKnownZero(uint32_t first, uint32_t last) const {
  for (uint32_t chunk = first; chunk <= last; chunk++) {
    if (zeros_.test(chunk)) return true;
  }
  return false;
}

uint8_t* Region::beginWrite(uint64_t offset, size_t length) {
  uint8_t* const bytes = store_->readOnly() ? nullptr : store_->mapping();
  if (!bytes) return nullptr;
  zeros_.clearRange(chunkAt(offset), chunkAt(offset + length - 1));
  keepWritten(chunkAt(offset), chunkAt(offset + length - 1));
  return bytes + offset;
}

// As writeAt: after the bytes, before the reply.
void Region::endWrite(uint64_t offset, size_t length) {
  markWritten(offset, length);
  writes_.fetch_add(1, std::memory_order_relaxed);
  bytesWritten_.fetch_add(length, std::memory_order_relaxed);
  served();
}

// The mark comes after the write and before the reply. After: were it set first, takeDirty() could
// take the mark and the round could read the old bytes before they change, and the change would never
// be sent. Before the reply: a writer that has its answer finds its chunk in the next takeDirty().
// In between, a round may send the new bytes unmarked and then once more: wasteful, not wrong.
int Region::writeAt(const uint8_t* from, size_t length, uint64_t offset) {
  const uint32_t first = chunkAt(offset);
  const uint32_t last = chunkAt(offset + length - 1);
  zeros_.clearRange(first, last);
  keepWritten(first, last);
  const int error = store_->write(from, length, offset);
  // Also after a failure: part of it may have been written.
  dirty_.setRange(first, last);
  keepWritten(first, last);
  if (error) return error;
  writes_.fetch_add(1, std::memory_order_relaxed);
  bytesWritten_.fetch_add(length, std::memory_order_relaxed);
  served();
  return 0;
}

int Region::zeroAt(uint64_t offset, uint64_t length, bool keepBlocks, bool fast) {
  // The hint stays as it is: zeros remain zeros, and a chunk that was not known to be zero may have
  // other bytes outside the range.
  keepWritten(chunkAt(offset), chunkAt(offset + length - 1));
  const int error = store_->zero(offset, length, {.keepBlocks = keepBlocks, .fast = fast});
  dirty_.setRange(chunkAt(offset), chunkAt(offset + length - 1));
  keepWritten(chunkAt(offset), chunkAt(offset + length - 1));
  if (error) return error;
  writes_.fetch_add(1, std::memory_order_relaxed);
  served();
  return 0;
}

int Region::syncForExport() {
  if (shutdown_.load()) return ESHUTDOWN;
  if (gate() == Gate::fenced) return ESTALE;
  syncs_.fetch_add(1, std::memory_order_relaxed);
  // What counts is elsewhere, and there already: see awaitSync().
  return onSyncs_ ? 0 : makeDurable();
}

int Region::makeDurable() {
  if (store_->readOnly()) return 0;
  return state_ ? state_->checkpoint(*store_) : store_->sync();
}

void Region::served() {
  if (firstServedAtMs_.load(std::memory_order_relaxed) != 0) return;
  double never = 0;
  firstServedAtMs_.compare_exchange_strong(never, monotonicMs());
}

void Region::read(std::shared_ptr<ReadJob> job, std::function<void()> done) {
  const size_t count = job->chunks.size();
  job->hashes.resize(count * 32);
  job->zero.resize(count);
  const unsigned tasks = static_cast<unsigned>(std::max<size_t>(1, std::min<size_t>(pool_.threads(), count)));
  auto progress = std::make_shared<Progress>(tasks, counted(std::move(done)));
  for (unsigned task = 0; task < tasks; task++) {
    pool_.submit([this, job, progress] {
      std::vector<uint8_t> scratch;
      for (;;) {
        const size_t position = progress->next.fetch_add(1);
        if (position >= job->chunks.size() || progress->failed.load()) break;
        Failure failure = readChunk(*job, position, scratch);
        if (failure) progress->fail(job->failure, std::move(failure));
      }
      progress->finishOne();
    });
  }
}

Failure Region::readChunk(ReadJob& job, size_t position, std::vector<uint8_t>& scratch) {
  if (shutdown_.load()) return closedFailure();
  const uint32_t chunk = job.chunks[position];
  const uint32_t length = chunkLength(chunk);
  if (store_->isHole(chunkOffset(chunk), length)) {
    if (job.into) std::memset(job.into + position * chunkBytes_, 0, length);
    const Digest known = hash()->ofZeros(length);
    std::copy(known.begin(), known.end(), job.hashes.data() + position * 32);
    job.zero[position] = 1;
    return {};
  }
  uint8_t* into;
  if (job.into) {
    into = job.into + position * chunkBytes_;
  } else {
    scratch.resize(chunkBytes_);
    into = scratch.data();
  }
  const int error = store_->read(into, length, chunkOffset(chunk));
  if (error) return store_->explain(error, "pread");
  // The hash is of the bytes in the buffer and not of the store, so it fits what is sent even if the
  // workload writes meanwhile.
  uint8_t* digest = job.hashes.data() + position * 32;
  job.zero[position] = allZero(into, length);
  if (job.zero[position]) {
    const Digest known = hash()->ofZeros(length);
    std::copy(known.begin(), known.end(), digest);
  } else {
    hash()->digest(into, length, digest);
  }
  return {};
}

void Region::store(std::shared_ptr<StoreJob> job, std::function<void()> done) {
  job->outcomes.assign(job->chunks.size(), kSkipped);
  // A chunk always goes to the same lane, and a lane is first in, first out: stores of one chunk take
  // effect in the order of the calls, and never two at once.
  std::vector<std::vector<size_t>> lanes(pool_.threads());
  for (size_t position = 0; position < job->chunks.size(); position++) {
    lanes[job->chunks[position] % lanes.size()].push_back(position);
  }
  unsigned tasks = 0;
  for (const auto& lane : lanes) tasks += !lane.empty();
  if (tasks == 0) {
    pool_.submit(std::move(done));
    return;
  }
  auto progress = std::make_shared<Progress>(tasks, counted(std::move(done)));
  for (unsigned lane = 0; lane < lanes.size(); lane++) {
    if (lanes[lane].empty()) continue;
    pool_.submitToLane(lane, [this, job, progress, positions = std::move(lanes[lane])] {
      for (const size_t position : positions) {
        if (progress->failed.load()) break;
        Failure failure = storeChunk(*job, position);
        if (failure) progress->fail(job->failure, std::move(failure));
      }
      progress->finishOne();
    });
  }
}

// With `ifAbsent`, the claim makes "absent, so I write" and "present, so the workload may write"
// exclude each other. Lanes already keep two stores of one chunk apart; the claim keeps a store and
// setPresent() apart, which the JS thread runs. Order at the end: bytes, then the present bit, then the
// claim, then who waits. A request that sees the bit finds the bytes; one that does not is parked
// under the waiting room's mutex, where arrived() finds it.
Failure Region::storeChunk(StoreJob& job, size_t position) {
  if (shutdown_.load()) return closedFailure();
  const uint32_t chunk = job.chunks[position];
  const uint32_t length = chunkLength(chunk);
  const uint8_t* bytes =
      job.offsets[position] == kZeroChunk ? nullptr : job.bytes + job.offsets[position];
  if (job.ifAbsent && present_.test(chunk)) return {};

  Digest digest{};
  if (job.hashes) {
    digest = hash()->ofZeros(length);
    if (bytes) hash()->digest(bytes, length, digest.data());
    if (!std::equal(digest.begin(), digest.end(), job.hashes + position * 32)) {
      job.outcomes[position] = kMismatch;
      return {};
    }
  }

  if (job.ifAbsent) {
    if (!claimed_.set(chunk)) return {};
    if (present_.test(chunk)) {
      claimed_.clear(chunk);
      return {};
    }
  }
  const int error = writeChunk(chunk, bytes);
  if (!error && state_ && job.hashes) state_->setHash(chunk, digest.data());
  if (!error && job.ifAbsent) markPresent(chunk);
  if (job.ifAbsent) {
    claimed_.clear(chunk);
    if (!error) waiting_.arrived(chunk);
    grantIfAsked(chunk);
    if (!error) tellArrival(chunk);
  }
  if (error) return store_->explain(error, bytes ? "pwrite" : "fallocate");
  job.outcomes[position] = kStored;
  return {};
}

void Region::onArrival(const void* who, std::function<void(uint32_t)> tell) {
  const std::lock_guard lock(arrivalsMutex_);
  onArrival_.emplace_back(who, std::move(tell));
}

void Region::forgetArrivals(const void* who) {
  const std::lock_guard lock(arrivalsMutex_);
  std::erase_if(onArrival_, [&](const auto& entry) { return entry.first == who; });
}

void Region::tellArrival(uint32_t chunk) {
  const std::lock_guard lock(arrivalsMutex_);
  for (const auto& [who, tell] : onArrival_) tell(chunk);
}

int Region::writeChunk(uint32_t chunk, const uint8_t* bytes) {
  const uint32_t length = chunkLength(chunk);
  const uint64_t offset = chunkOffset(chunk);
  if (bytes) {
    zeros_.clear(chunk);
    return store_->write(bytes, length, offset);
  }
  if (zeros_.test(chunk)) return store_->readOnly() ? EROFS : 0;
  const int error = store_->zero(offset, length);
  if (!error) zeros_.set(chunk);
  return error;
}

// setPresent() of a chunk that a store has claimed must not make it present under the store's hands,
// and must not wait for a disk on the JS thread. It leaves a grant instead, and whoever gives the
// claim up looks for one. The grant is set before the claim is tried, and the claim is given up before
// the grant is looked for, so one of the two sides sees the other.
void Region::grantIfAsked(uint32_t chunk) {
  if (!granted_.test(chunk) || present_.test(chunk) || !claimed_.set(chunk)) return;
  markPresent(chunk);
  claimed_.clear(chunk);
  waiting_.arrived(chunk);
}

void Region::setPresent(const uint8_t* bitmap) {
  for (size_t i = 0; i < present_.words(); i++) {
    const uint64_t wanted = present_.exportedWord(bitmap, i) & ~present_.word(i).load();
    if (!wanted) continue;
    granted_.word(i).fetch_or(wanted);
    const uint64_t mine = wanted & ~claimed_.word(i).fetch_or(wanted);
    if (state_) state_->setWord(i, mine);
    present_.word(i).fetch_or(mine);
    claimed_.word(i).fetch_and(~mine);
  }
  waiting_.arrivedMany();
}

void Region::setGate(Gate gate) {
  // Reset before the gate opens, or the first request could be served and then forgotten.
  if (gate == Gate::open && waiting_.gate() != Gate::open) firstServedAtMs_.store(0);
  waiting_.setGate(gate);
}

void Region::sync(std::function<void(Failure)> done) {
  syncPool_.submit([this, done = std::move(done)] {
    if (shutdown_.load()) return done(closedFailure());
    const int error = store_->readOnly() ? 0 : store_->sync();
    done(error ? store_->explain(error, "fdatasync") : Failure{});
  });
}

void Region::checkpoint(std::function<void(Failure)> done) {
  syncPool_.submit([this, done = std::move(done)] {
    if (shutdown_.load()) return done(closedFailure());
    const int error = makeDurable();
    done(error ? store_->explain(error, "fdatasync") : Failure{});
  });
}

std::vector<Region::Extent> Region::status(Status kind, uint64_t offset, uint64_t length, size_t most) const {
  std::vector<Extent> out;
  const uint64_t end = offset + length;
  while (offset < end) {
    const Extent next = kind == Status::dirty ? dirtyAt(offset, end) : allocationAt(offset, end);
    if (!out.empty() && out.back().flags == next.flags) {
      out.back().length += next.length;
    } else if (out.size() < most) {
      out.push_back(next);
    } else {
      break;
    }
    offset += next.length;
  }
  return out;
}

// What has not arrived has to be read to be known: data.
Region::Extent Region::allocationAt(uint64_t offset, uint64_t end) const {
  uint32_t chunk = chunkAt(offset);
  const bool present = present_.test(chunk);
  uint64_t until = offset;
  while (until < end && present_.test(chunk) == present) until = chunkOffset(chunk++) + chunkBytes_;
  until = std::min(until, end);
  if (!present) return {until - offset, 0};
  uint64_t same = until;
  const uint32_t flags = store_->holeAt(offset, same) ? nbd::kStateHole | nbd::kStateZero : 0;
  return {std::min(same, until) - offset, flags};
}

Region::Extent Region::dirtyAt(uint64_t offset, uint64_t end) const {
  uint32_t chunk = chunkAt(offset);
  const bool dirty = dirty_.test(chunk);
  uint64_t until = offset;
  while (until < end && dirty_.test(chunk) == dirty) until = chunkOffset(chunk++) + chunkBytes_;
  return {std::min(until, end) - offset, dirty ? nbd::kStateDirty : 0};
}

RegionStats Region::stats() const {
  return {.reads = reads_.load(std::memory_order_relaxed),
          .writes = writes_.load(std::memory_order_relaxed),
          .syncs = syncs_.load(std::memory_order_relaxed),
          .misses = waiting_.misses(),
          .bytesRead = bytesRead_.load(std::memory_order_relaxed),
          .bytesWritten = bytesWritten_.load(std::memory_order_relaxed),
          .parked = waiting_.parked(),
          .presentChunks = present_.count(),
          .dirtyChunks = dirty_.count(),
          .firstServedAtMs = firstServedAtMs_.load()};
}

void Region::shutdown() {
  const std::lock_guard lock(shutdownMutex_);
  if (shutdown_.exchange(true)) return;
  waiting_.shut(ESHUTDOWN);
  inFlight_.quiesceAndWait();
  pool_.stop();
  syncPool_.stop();
  // The key is wiped with the last job that has it.
  hash_.store(nullptr);
}

}  // namespace memferry
