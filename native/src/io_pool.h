// The threads that read, hash, verify and store chunks.
//
// Two kinds of work. Shared tasks go to whichever thread is free. Lane tasks of one lane run one
// after the other, in the order they were submitted, on one thread: that is what orders two stores
// of one chunk without a lock. A thread alternates between its lane and the shared queue, so neither
// starves.
//
// submit*() may be called by any thread until stop() returns. stop() lets queued tasks run (each
// owes somebody an answer) and joins; not from a pool thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace memferry {

class IoPool {
 public:
  using Task = std::function<void()>;

  explicit IoPool(unsigned threads);
  ~IoPool() { stop(); }

  unsigned threads() const { return static_cast<unsigned>(lanes_.size()); }
  void submit(Task task);
  void submitToLane(unsigned lane, Task task);
  void stop();

 private:
  void run(unsigned lane);

  std::mutex mutex_;
  // One condition for all: a lane task must wake its own thread, and there are few threads.
  std::condition_variable work_;
  std::deque<Task> shared_;
  std::vector<std::deque<Task>> lanes_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace memferry
