// Serves one mount: the FUSE protocol, spoken to /dev/fuse directly.
//
// Threads. A *worker* reads one channel and answers on the spot whatever needs no waiting: names,
// attributes, and reads and writes that hit. A request that must wait (chunk absent, gate shut) or that
// may take long (fsync, fallocate) becomes a Call on the heap; *resumers* run Calls when their wait
// is over. So a worker never blocks on a chunk, up to a bound on Calls; past it the worker that has
// one more waits until there is room. FuseFlusher is a thread that plays the part of a client.
//
// Lifetime: mount() starts the threads, stop() unmounts and joins them; after it every method is safe
// and does nothing. Neither may be called from the server's own threads.
#pragma once

#include <linux/fuse.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "failure.h"
#include "fuse_data.h"
#include "fuse_directory.h"
#include "fuse_flusher.h"
#include "fuse_mounter.h"
#include "fuse_node.h"
#include "fuse_warmer.h"
#include "region.h"

namespace memferry {

class FuseServer {
 public:
  struct Options {
    std::string directory;
    unsigned threads = 2;
    uint64_t readAheadBytes = 1 << 20;
    bool allowOther = false;
    // Chunks that arrive in the background go into the kernel's page cache.
    bool warm = true;
    // Channels of a connection that another process mounted at the directory; copied. Empty: a new mount.
    std::vector<int> channels;
  };

  static std::shared_ptr<FuseServer> mount(const Options& options, Failure& failure);
  ~FuseServer();

  // Begins to answer; what the server before this one had read and not answered is sent again. False: the
  // kernel cannot do that (before Linux 6.9), and whoever waits for such an answer waits for ever.
  bool serve();
  std::vector<int> channels() const;

  const std::string& directory() const { return mounter_.directory(); }
  Failure add(const std::string& name, std::shared_ptr<Region> region, uint32_t mode, bool readOnly);
  // `done` runs once, on the flusher's thread or here.
  void flush(const std::string& name, bool invalidate, std::function<void(Failure)> done);
  // For files that are opened from now on. False: not without root.
  bool setReadAhead(uint64_t bytes);
  // Blocks until the mount and the threads are gone. `patience`: how long writing back the page cache
  // may take before the connection is cut. Idempotent; a second caller waits for the first.
  void stop(std::chrono::milliseconds patience);

  // For the flusher.
  FuseNode* find(const std::string& name) const { return files_.find(name); }
  // Tells the kernel to drop cached pages; 0 or an errno.
  int notifyInvalidate(const FuseNode& node, const Range& range);

 private:
  struct Call;
  struct Channel;

  explicit FuseServer(const Options& options);
  Failure adopt();
  void openChannels();

  // Workers.
  void work(Channel& channel);
  void dispatch(Channel& channel, const uint8_t* request, size_t length);
  void init(Channel& channel, const fuse_in_header& header, const fuse_init_in& in);
  void interrupt(const fuse_in_header& header, uint64_t target);

  // `waits`: for a chunk or the gate. `written`: for what it wrote to be where it has to be, before it is answered.
  enum class Served { done, waits, written };
  Served serve(const FuseData& data, uint8_t* buffer, bool pass);
  void wait(Channel& channel, const FuseData& data);
  void defer(const FuseData& data, bool written = false);
  std::unique_ptr<Call> makeCall(const FuseData& data);

  // Resumers.
  void resume();
  void runCall(Call* call, uint8_t* buffer);
  void ready(Call* call, int error);
  bool finishSync(Call& call);
  static void replyWritten(const FuseData& data, int error);

  const Options options_;
  bool serving_ = false;
  FuseMounter mounter_;
  FuseDirectory files_;

  std::vector<std::unique_ptr<Channel>> channels_;
  std::vector<std::thread> workers_;
  std::vector<std::thread> resumers_;
  FuseFlusher flusher_{*this};
  FuseWarmer warmer_;
  std::atomic<uint64_t> readAheadBytes_;
  // Readable when workers must leave; used only where a connection cannot be aborted.
  int stopEvent_ = -1;

  std::mutex stopMutex_;
  bool stopped_ = false;

  // Guards what follows. May be held while calling a region's waiting room, never the other way round.
  std::mutex mutex_;
  std::condition_variable resumable_;
  std::condition_variable room_;
  // Every Call that lives, by the kernel's number for it.
  std::unordered_map<uint64_t, std::unique_ptr<Call>> calls_;
  size_t callBytes_ = 0;
  std::deque<Call*> queue_;
  // Nobody parks any more; whoever would is answered ENOTCONN.
  bool leaving_ = false;
  bool resumersLeave_ = false;
};

}  // namespace memferry
