// Brings chunks that arrive in the background into the kernel's page cache, so that the workload's first touch of
// them asks nobody.
//
// A thread that acts as a client of our own mount, as FuseFlusher does: it asks for read-ahead of what has arrived.
// The kernel takes only pages that it does not have, under its own locks, and our workers answer from the store; so
// nothing that the workload wrote is ever overwritten, which FUSE_NOTIFY_STORE cannot promise (docs/adr).
//
// Best effort throughout: what comes while the gate is not open, when memory is short, or after its share of memory
// is used is left for the workload to ask for. What is remembered is a bit per chunk, and neighbours go in one call.
//
// add() belongs to one thread; stop() joins, and no region calls in here after it. Not from this thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "atomic_bitmap.h"
#include "fuse_node.h"

namespace memferry {

class FuseWarmer {
 public:
  FuseWarmer() = default;
  ~FuseWarmer() { stop(); }

  void start(std::string directory);
  void stop();
  // The node must live until stop().
  void add(const FuseNode& node);

 private:
  struct Entry {
    explicit Entry(const FuseNode& node) : node(node), arrived(node.region->chunkCount()) {}
    const FuseNode& node;
    AtomicBitmap arrived;
  };

  void arrived(Entry& entry, uint32_t chunk);
  void run();
  void warm(Entry& entry);
  // False: no more of this file for now.
  bool readAhead(const Region& region, int fd, uint32_t first, uint32_t last);
  bool memoryAllows(uint64_t bytes);

  std::string directory_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Entry>> entries_;
  bool news_ = false;
  std::atomic<bool> stopping_{false};
  std::thread thread_;

  // The thread's own.
  uint64_t budgetBytes_ = 0;
  uint64_t sinceLookBytes_ = 0;
  bool looked_ = false;
  bool isShort_ = false;
};

}  // namespace memferry
