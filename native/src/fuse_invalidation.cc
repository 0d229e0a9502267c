#include "fuse_invalidation.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "fuse_server.h"
#include "thread_name.h"

namespace memferry {
namespace {

// A walk that has not moved for this long is held up by a READ that we hold back.
constexpr std::chrono::milliseconds kGrace{2};
// Readers that keep coming can start another round; each round leaves some of them parked, so this is
// reached only where new readers outrun it.
constexpr int kMaxRounds = 1000;

// `from` without what `holes` cover.
std::vector<Range> subtract(const std::vector<Range>& from, std::vector<Range> holes) {
  std::sort(holes.begin(), holes.end(), [](const Range& a, const Range& b) { return a.offset < b.offset; });
  std::vector<Range> out;
  for (const Range& range : from) {
    uint64_t at = range.offset;
    const uint64_t end = range.offset + range.length;
    for (const Range& hole : holes) {
      if (hole.offset >= end) break;
      if (hole.offset + hole.length <= at) continue;
      if (hole.offset > at) out.push_back({at, hole.offset - at});
      at = hole.offset + hole.length;
    }
    if (at < end) out.push_back({at, end - at});
  }
  return out;
}

}  // namespace

Failure FuseInvalidation::run() {
  std::vector<Range> ranges{{0, node_.region->bytes()}};
  const bool held = node_.region->gate() == Gate::draining;
  std::thread watcher;
  if (held) watcher = std::thread([this] { watch(); });
  int error = 0;
  int round = 0;
  while (!error && !ranges.empty() && round++ < kMaxRounds) {
    if (held) {
      // READs that began before the gate shut, or were released in the last round, are answered now.
      node_.region->inFlight().quiesceAndWait();
      ranges = subtract(ranges, node_.region->waiting().parkedReads(&node_));
    }
    error = drop(ranges);
    const std::lock_guard lock(mutex_);
    ranges = std::exchange(served_, {});
  }
  {
    const std::lock_guard lock(mutex_);
    finished_ = true;
  }
  changed_.notify_all();
  if (watcher.joinable()) watcher.join();
  if (error) return Failure::system(error, "write", server_.directory());
  if (ranges.empty()) return {};
  return Failure::named("EBUSY", "readers keep filling the cache of '" + node_.name + "'");
}

int FuseInvalidation::drop(const std::vector<Range>& ranges) {
  int error = 0;
  for (const Range& range : ranges) {
    {
      const std::lock_guard lock(mutex_);
      walking_ = true;
      range_ = range;
      since_ = std::chrono::steady_clock::now();
    }
    error = server_.notifyInvalidate(node_, range);
    if (error) break;
  }
  const std::lock_guard lock(mutex_);
  walking_ = false;
  return error;
}

void FuseInvalidation::watch() {
  becomeHelperThread("memferry-watch");
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kGrace, [&] { return finished_; })) {
    if (!walking_ || std::chrono::steady_clock::now() - since_ < kGrace) continue;
    const std::vector<Range> released = node_.region->waiting().releaseReads(&node_, range_);
    served_.insert(served_.end(), released.begin(), released.end());
    since_ = std::chrono::steady_clock::now();
  }
}

}  // namespace memferry
