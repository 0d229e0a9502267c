// An address space that shows a region: ours, or another process's. Answers its page faults, follows what it does with
// its memory, and brings what was written there to the region.
//
// A mapping is *shared* if it shows the very file that the region's bytes are in: then pages only have to be mapped,
// and a write needs no more than a mark. Any other is *private*: pages are copied in, and written ones are copied
// back by flush().
//
// Threads. One reads messages and answers what need not wait, one answers what has waited. A fault whose chunk is
// absent, or that meets a gate, parks in the region's waiting room. flush() is for any other thread.
//
// Lifetime: start() runs the threads, stop() joins them; the descriptor closes with the object. Not from its own threads.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_set>
#include <vector>

#include "atomic_bitmap.h"
#include "failure.h"
#include "page_scan.h"
#include "process_memory.h"
#include "region.h"
#include "userfault.h"

namespace memferry {

struct UffdMapping {
  uint64_t address = 0;
  // Whole pages; the region may end within the last one.
  uint64_t length = 0;
  // In the region.
  uint64_t offset = 0;
  // What one fault brings, as the process's pages are.
  uint64_t pageBytes = 4096;
  bool shared = false;
  // What is taken out of the mapping may still be in the memory behind it.
  bool outlivesMapping = false;
};

class UffdSpace {
 public:
  static constexpr uint64_t kPage = 4096;
  enum class Tracking { async, sync };
  struct Options {
    std::shared_ptr<Region> region;
    Userfault fault;
    std::vector<UffdMapping> mappings;
    // Whose it is; ours if it is this process's.
    pid_t pid = 0;
    ProcessMemory memory;
    // Nobody has touched it yet: it is protected as it is.
    bool isFresh = false;
  };

  // Registers the mappings for what is needed of them.
  static std::shared_ptr<UffdSpace> start(Options options, Failure& failure);
  ~UffdSpace() { stop(); }

  pid_t pid() const { return options_.pid; }
  Tracking tracking() const { return tracking_; }
  // What was written before the call is in the region and marked when it answers 0. What could not be brought stays owed.
  int flush();
  // Threads are gone after it; nobody answers faults any more. Idempotent.
  void stop();

 private:
  struct Fault;
  struct Window {
    uint64_t address;
    uint64_t offset;
    uint64_t length;
    bool shared;
  };

  explicit UffdSpace(Options options);
  // A process that was forked off: it is answered and not tracked.
  UffdSpace(const UffdSpace& parent, Userfault fault);
  Failure watch();
  void run();

  void readMessages();
  void handle(const uffd_msg& message);
  void pageFault(uint64_t address, uint64_t flags);
  void writeFault(uint64_t address);
  void removed(uint64_t start, uint64_t end);
  void moved(uint64_t from, uint64_t to, uint64_t length);
  void unmapped(uint64_t start, uint64_t end);
  void forked(int fd);

  // Of the page at `address`; false if nothing of the region is there.
  bool windowAt(uint64_t address, Window& out) const;
  // False: it must wait.
  bool serve(uint64_t address, std::unique_ptr<Fault>& made);
  bool answer(const Window& page);
  bool fillPrivate(const Window& page, const Window& around, const uint8_t* bytes);
  bool mapShared(const Window& page, const Window& around);
  void refuse(const Window& page);
  void park(std::unique_ptr<Fault> fault);
  void ready(Fault* fault, int error);
  void later(uint64_t address);
  void resume();

  int takeWritten();
  int markWritten(const UffdMapping& mapping);
  // Takes the bits of a mapping's pages run by run; those that `use` fails for are set again.
  int takeRuns(AtomicBitmap& bits, const UffdMapping& mapping,
               const std::function<int(uint64_t offset, uint64_t length)>& use);
  int discard(const UffdMapping& mapping, uint64_t offset, uint64_t length);
  int bring(const UffdMapping& mapping, uint64_t offset, uint64_t length);
  std::vector<UffdMapping> mappings() const;

  Options options_;
  Region& region_;
  PageScan scan_;
  Tracking tracking_ = Tracking::async;

  // One bit per page of the region.
  // Was given to the process: if it is missing again, the process has thrown it away, and it is zeros.
  AtomicBitmap handed_;
  // Written and not brought yet.
  AtomicBitmap written_;
  // Thrown away and not zeroed in the region yet.
  AtomicBitmap discarded_;
  // Of memory that outlives its mapping, whose bytes have to be looked at a second time: the message about a
  // change comes before the change.
  AtomicBitmap recheck_;

  std::thread reader_;
  std::thread resumer_;
  Descriptor wake_;
  std::mutex flushMutex_;
  std::mutex stopMutex_;
  bool stopped_ = false;

  // Guards the mappings, and filling a page together with noting that it was: between the two the process could
  // throw the page away and ask for it again.
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<UffdSpace>> children_;

  std::mutex queueMutex_;
  std::condition_variable resumable_;
  std::unordered_set<Fault*> parked_;
  std::deque<Fault*> queue_;
  // To be asked again once the messages that are there were read.
  std::deque<uint64_t> again_;
  bool leaving_ = false;
};

}  // namespace memferry
