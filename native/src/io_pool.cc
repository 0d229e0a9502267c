#include "io_pool.h"

#include <utility>

#include "thread_name.h"

namespace memferry {

IoPool::IoPool(unsigned threads) : lanes_(threads) {
  threads_.reserve(threads);
  for (unsigned lane = 0; lane < threads; lane++) threads_.emplace_back([this, lane] { run(lane); });
}

void IoPool::submit(Task task) {
  {
    const std::lock_guard lock(mutex_);
    shared_.push_back(std::move(task));
  }
  work_.notify_one();
}

void IoPool::submitToLane(unsigned lane, Task task) {
  {
    const std::lock_guard lock(mutex_);
    lanes_[lane].push_back(std::move(task));
  }
  work_.notify_all();
}

void IoPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void IoPool::run(unsigned lane) {
  becomeHelperThread("memferry-io");
  std::deque<Task>& own = lanes_[lane];
  bool laneFirst = true;
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [&] { return stopping_ || !own.empty() || !shared_.empty(); });
    if (own.empty() && shared_.empty()) return;
    std::deque<Task>& queue = own.empty() || (!laneFirst && !shared_.empty()) ? shared_ : own;
    laneFirst = !laneFirst;
    {
      Task task = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      task();
    }  // what the task holds is freed outside the lock
    lock.lock();
  }
}

}  // namespace memferry
