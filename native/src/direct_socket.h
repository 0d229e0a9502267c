// The UDP socket on which peers find each other and, once they have, their direct connection: one thread, batches in
// and out by GRO and GSO where the kernel has them. Every method may be called by any thread.
#pragma once

#include <netinet/in.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "direct_connection.h"
#include "failure.h"

namespace memferry {

class DirectSocket {
 public:
  struct Datagram {
    std::vector<uint8_t> bytes;
    std::string address;
    uint16_t port;
  };
  struct Events {
    std::vector<Datagram> datagrams;
    std::vector<unsigned> readable;
    std::vector<unsigned> writable;
    bool closed = false;
  };

  // `wake` is called from the thread when poll() has something, once until it was called. Port 0: a free one.
  static std::shared_ptr<DirectSocket> open(uint16_t port, std::function<void()> wake, Failure& failure);
  ~DirectSocket();

  uint16_t port() const { return port_; }
  // Best effort. False if the address is none.
  bool send(const uint8_t* data, size_t length, const std::string& address, uint16_t port);
  // Once. False if the address is none, or there is a connection already.
  bool connect(const direct::ConnectionOptions& options, const std::string& address, uint16_t port);
  // Whether more may be written at once; else `writable` says when.
  bool write(unsigned stream, const uint8_t* data, size_t length);
  void end(unsigned stream);
  // Bytes that may be read at once, and whether all of a stream was read.
  size_t readable(unsigned stream);
  bool finished(unsigned stream);
  void read(unsigned stream, uint8_t* out, size_t length);
  Events poll();
  direct::ConnectionStats stats();
  // What ended it; empty while it goes on.
  std::string closeReason();
  uint16_t closeCode();
  // Where the other side is now.
  Datagram remote();
  // Sends what is written (for a bounded time) if `settle`, says why to the other side, and stops. Idempotent; blocks.
  void stop(bool settle, uint16_t code, const std::string& reason);

 private:
  DirectSocket() = default;
  void run();
  void receiveAll();
  void take(const uint8_t* data, size_t length, const sockaddr_in6& from, uint64_t now, const uint8_t* mac);
  // False: the kernel takes no more now.
  bool sendAll(uint64_t now);
  bool sendBatch(const direct::Batch& batch);
  bool sendPart(const direct::Batch& batch, size_t at, size_t length, bool many);
  void collect();
  void kick();
  bool parse(const std::string& address, uint16_t port, sockaddr_in6& out) const;

  int socket_ = -1;
  int wakeUp_ = -1;
  int timer_ = -1;
  int poll_ = -1;
  bool ipv4Only_ = false;
  bool segments_ = true;
  uint16_t port_ = 0;
  std::function<void()> wake_;
  std::atomic<bool> woken_{false};
  std::thread thread_;
  std::vector<uint8_t> buffer_;
  std::vector<uint8_t> macs_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  bool stopped_ = false;
  std::unique_ptr<direct::Connection> connection_;
  sockaddr_in6 remote_{};
  direct::Batch batch_;
  size_t batchSent_ = 0;
  std::array<bool, direct::kStreams> wantsWrite_{};
  Events events_;
  bool closedTold_ = false;
};

}  // namespace memferry
