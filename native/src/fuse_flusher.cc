#include "fuse_flusher.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "fuse_server.h"
#include "thread_name.h"

namespace memferry {
namespace {

// Readers that keep coming can make invalidate() start again; each time at least one of them is left
// parked, so this is never reached unless new readers outrun it.
constexpr int kMaxInvalidateRounds = 1000;

// `from` without what `holes` cover.
std::vector<Range> subtract(std::vector<Range> from, std::vector<Range> holes) {
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

void FuseFlusher::start() {
  stopping_ = false;
  thread_ = std::thread([this] { run(); });
}

void FuseFlusher::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void FuseFlusher::submit(std::string name, bool invalidate, std::function<void(Failure)> done) {
  {
    const std::lock_guard lock(mutex_);
    if (!stopping_) {
      jobs_.push_back({std::move(name), invalidate, std::move(done)});
      work_.notify_one();
      return;
    }
  }
  done(Failure::named("ENOTCONN", "the mount is gone"));
}

void FuseFlusher::run() {
  becomeHelperThread("memferry-flush");
  threadId_.store(static_cast<int>(::syscall(SYS_gettid)));
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    const bool late = stopping_;
    lock.unlock();
    job.done(late ? Failure::named("ENOTCONN", "the mount is gone") : perform(job));
    lock.lock();
  }
}

Failure FuseFlusher::perform(const Job& job) {
  FuseNode* node = server_.find(job.name);
  if (!node) return Failure::named("ENOENT", "no file '" + job.name + "' in this mount");
  Failure failure = flush(job.name);
  if (!job.invalidate) return failure;
  // Pages that could not be written back stay: dropping them would lose the write without a word. A
  // fenced region is past that; its last writes have no home.
  if (failure && node->region->gate() != Gate::fenced) return failure;
  return invalidate(*node);
}

Failure FuseFlusher::flush(const std::string& name) {
  const std::string path = server_.directory() + "/" + name;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return Failure::system(errno, "open", path);
  // fsync() and not sync_file_range(): before Linux 6.16 FUSE writes back from copies, and only fsync
  // waits until we have answered them. The FSYNC request that follows is marked as ours by its handle
  // and does not go to the disk.
  const int error = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  return error ? Failure::system(error, "fsync", path) : Failure{};
}

// Dropping the cache while reads are held back is a trap: the kernel locks each page that it drops, and
// a READ that we hold back has its page locked. So:
//  - what a parked READ covers is left out. Those pages hold no data yet, there is nothing to drop.
//  - a READ that comes in ahead of the walk and parks would stop the walk. If the walk makes no progress
//    for a moment, such READs are served after all (FuseServer::releaseStuckReads), and what they have
//    filled is dropped in another round.
// When a round has served nobody, no page that was read before the gate shut is cached any more.
Failure FuseFlusher::invalidate(FuseNode& node) {
  const Range whole{0, node.region->bytes()};
  if (node.region->gate() != Gate::draining) {
    const int error = server_.notifyInvalidate(node, whole);
    return error ? Failure::system(error, "write", server_.directory()) : Failure{};
  }
  std::vector<Range> ranges{whole};
  for (int round = 0; round < kMaxInvalidateRounds; round++) {
    // READs that began before the gate shut, and those that the last round released, are answered now.
    node.region->inFlight().quiesceAndWait();
    ranges = subtract(std::move(ranges), node.region->waiting().parkedReads(&node));
    server_.beginInvalidation(node);
    int error = 0;
    for (const Range& range : ranges) {
      server_.invalidating(range);
      error = server_.notifyInvalidate(node, range);
      if (error) break;
    }
    ranges = server_.endInvalidation();
    if (error) return Failure::system(error, "write", server_.directory());
    if (ranges.empty()) return {};
  }
  return Failure::named("EBUSY", "readers keep filling the cache of '" + node.name + "'");
}

}  // namespace memferry
