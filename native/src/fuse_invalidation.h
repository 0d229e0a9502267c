// Drops every cached page of a file, while its readers go on reading.
//
// Dropping the cache while a gate holds reads back is a trap: the kernel locks each page that it drops,
// and a READ that we hold back has its page locked. So:
//  - what a parked READ covers is left out. Those pages hold no data yet, there is nothing to drop.
//  - a READ that comes in ahead of the kernel's walk and parks stops the walk. If the walk makes no
//    progress for a moment, such READs are served after all, and what they have filled is dropped in
//    another round.
// When a round has served nobody, no page that was read before the gate shut is cached any more.
//
// Made, run and destroyed by the flusher's thread; a thread of its own watches the walk.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "failure.h"
#include "waiting_room.h"

namespace memferry {

class FuseNode;
class FuseServer;

class FuseInvalidation {
 public:
  FuseInvalidation(FuseServer& server, FuseNode& node) : server_(server), node_(node) {}

  Failure run();

 private:
  int drop(const std::vector<Range>& ranges);
  void watch();

  FuseServer& server_;
  FuseNode& node_;

  // Guards the rest. The watcher holds it while it wakes requests; nobody who is woken takes it.
  std::mutex mutex_;
  std::condition_variable changed_;
  bool walking_ = false;
  bool finished_ = false;
  Range range_;
  std::chrono::steady_clock::time_point since_;
  std::vector<Range> served_;
};

}  // namespace memferry
