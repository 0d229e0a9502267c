// Listens for NBD clients, on a Unix socket or on TCP, and serves regions to them.
//
// Lifetime: listen() starts the listener's thread, stop() ends it and every connection. Neither may be called
// from the server's own threads; stop() is idempotent, and a second caller waits for the first.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "failure.h"
#include "nbd_connection.h"
#include "nbd_exports.h"
#include "unix_listener.h"

namespace memferry {

class NbdServer {
 public:
  struct Options {
    // A Unix socket if `path` is not empty, else TCP.
    std::string path;
    std::string host;
    uint16_t port = 0;
    NbdTls tls = NbdTls::off;
    // Given a connection's encrypted socket and one that carries what is inside, both its own from now on. On
    // a connection's thread; must only hand over.
    std::function<void(Descriptor encrypted, Descriptor plain)> onTls;
    unsigned maxConnections = 64;
  };

  static std::shared_ptr<NbdServer> listen(Options options, Failure& failure);
  ~NbdServer() { stop(); }

  NbdExports& exports() { return exports_; }
  const std::string& path() const { return options_.path; }
  const std::string& host() const { return options_.host; }
  // The one that was bound.
  uint16_t port() const { return options_.port; }
  size_t connections() const;
  void stop();

 private:
  explicit NbdServer(Options options) : options_(std::move(options)) {}
  Failure bindTcp();
  void run();
  void accept();
  void reap();
  void wake();

  Options options_;
  NbdExports exports_;
  Descriptor listener_;
  Descriptor wake_;
  std::thread thread_;
  UnixListener unix_;

  std::mutex stopMutex_;
  bool stopped_ = false;

  struct Client {
    std::unique_ptr<NbdConnection> connection;
    std::shared_ptr<std::atomic<bool>> over;
  };
  mutable std::mutex mutex_;
  std::vector<Client> clients_;
  bool leaving_ = false;
};

}  // namespace memferry
