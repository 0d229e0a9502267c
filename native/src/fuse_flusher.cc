#include "fuse_flusher.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "fuse_invalidation.h"
#include "fuse_server.h"
#include "thread_name.h"

namespace memferry {
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
  return FuseInvalidation(server_, *node).run();
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

}  // namespace memferry
