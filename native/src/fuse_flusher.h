// A thread that acts as a client of our own mount, so that nobody else has to.
//
// Writing back the page cache of a file means opening it and calling fsync(), and each of those is a
// request that our workers answer. The JS thread must never do that: it may be what a worker waits for.
//
// Jobs run one after the other. stop() lets the queued ones fail and joins; not from this thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "failure.h"

namespace memferry {

class FuseServer;

class FuseFlusher {
 public:
  explicit FuseFlusher(FuseServer& server) : server_(server) {}

  void start();
  void stop();
  void submit(std::string name, bool invalidate, std::function<void(Failure)> done);
  // Kernel id of the thread: the workers know its requests by it.
  int threadId() const { return threadId_.load(); }

 private:
  struct Job {
    std::string name;
    bool invalidate;
    std::function<void(Failure)> done;
  };

  void run();
  Failure flush(const std::string& name);
  Failure perform(const Job& job);

  FuseServer& server_;
  std::atomic<int> threadId_{0};
  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<Job> jobs_;
  bool stopping_ = true;
  std::thread thread_;
};

}  // namespace memferry
