// Waits on a Unix socket for programs that hand their userfaultfd over, and serves them a region as their memory.
//
// A program's connection may end while the program goes on (Firecracker closes it at once), so its memory is served until
// the process is gone. While it lasts, a line `flush` is answered `ok` once what was written is in the region.
//
// Lifetime: listen() starts the listener's thread, stop() ends it and lets go of every program. Neither from its own threads.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "failure.h"
#include "region.h"
#include "uffd_space.h"
#include "unix_listener.h"

namespace memferry {

class UffdServer {
 public:
  static std::shared_ptr<UffdServer> listen(std::string path, Failure& failure);
  ~UffdServer() { stop(); }

  const std::string& path() const { return path_; }
  // The one region; programs that came before wait for it.
  Failure add(std::shared_ptr<Region> region);
  // What was written before the call is in the region when it answers without a failure.
  Failure flush();
  // Programs that are served now, and connections that were turned away.
  size_t clients() const;
  uint64_t refused() const { return refused_.load(); }
  void stop();

 private:
  struct Client;

  explicit UffdServer(std::string path) : path_(std::move(path)) {}
  void run();
  void accept();
  void reap();
  void serve(Client& client);
  // Empty, or why the program is refused.
  std::string admit(Client& client);
  std::string waitForRegion(const Client& client, std::shared_ptr<Region>& out);
  void attend(Client& client);

  const std::string path_;
  UnixListener listener_;
  Descriptor wake_;
  std::thread thread_;
  std::atomic<uint64_t> refused_{0};

  std::mutex stopMutex_;
  bool stopped_ = false;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<Region> region_;
  std::vector<std::shared_ptr<Client>> clients_;
  bool leaving_ = false;
};

}  // namespace memferry
