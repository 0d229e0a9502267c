// One client of an NBD server.
//
// Threads. The *reader* negotiates, then reads requests and answers on the spot whatever needs no waiting;
// replies to what arrived together leave together. A request that must wait (chunk absent, gate shut) or may
// take long (flush, zeroing much) becomes a Call; two *resumers*, made with the first of each kind, run those:
// one what has waited, the other what takes long. So replies come out of order, and a client that does not
// read holds up nobody else: nothing of a region is held while a reply is sent.
//
// Lifetime: start() begins, stop() ends and joins. `done` is called once, on the reader, as its last act.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "nbd_exports.h"
#include "nbd_negotiation.h"
#include "nbd_output.h"
#include "nbd_socket.h"
#include "region.h"

namespace memferry {

class NbdConnection {
 public:
  NbdConnection(const NbdExports& exports, NbdTls tls, NbdNegotiation::StartTls startTls, Descriptor socket);
  // One that needs no negotiation: the kernel's.
  NbdConnection(const NbdExports& exports, std::shared_ptr<const NbdExport> target, Descriptor socket);
  ~NbdConnection();

  void start(std::function<void()> done);
  // Cuts the connection; any thread.
  void cut();
  // cut(), and waits. Not from its own threads.
  void stop();

 private:
  struct Request {
    nbd::Command command = nbd::Command::disconnect;
    uint16_t flags = 0;
    uint64_t cookie = 0;
    // As asked; the extended reply repeats it.
    uint64_t asked = 0;
    // What is left to do: a READ is answered piece by piece.
    uint64_t offset = 0;
    uint64_t length = 0;
    const uint8_t* payload = nullptr;  // of WRITE
    Access access() const {
      return command == nbd::Command::read || command == nbd::Command::cache ? Access::read : Access::write;
    }
  };
  struct Call;
  // What a resumer works off.
  struct Lane {
    std::deque<Call*> queue;
    std::condition_variable wake;
    std::thread thread;
  };

  void run();
  bool negotiate();
  void transmit();
  // The next request's head and, for WRITE, payload. False: the stream ended or makes no sense.
  bool next(Request& request);
  bool fill(size_t wanted);
  // Takes what can go straight to its place; what is left of the request is still to be done.
  bool takeDirectly(Request& request);
  bool takePayload(Request& request);
  bool receive(size_t room);
  bool discard(uint64_t length);

  // 0, or what the client did wrong.
  int check(const Request& request) const;
  void handle(Request& request);
  // False: it must wait. A READ may have been answered in part by then.
  bool serve(Request& request, NbdOutput& out);
  bool serveRead(Request& request, NbdOutput& out);
  void serveStatus(const Request& request, NbdOutput& out);

  void reply(const Request& request, int error, NbdOutput& out);
  void chunkHead(const Request& request, nbd::Chunk type, bool done, uint64_t length, NbdOutput& out);
  bool flush(NbdOutput& out);

  void park(const Request& request);
  void defer(const Request& request);
  bool hasRoom(uint64_t payload) const;
  std::unique_ptr<Call> makeCall(const Request& request);
  void aim(Call& call) const;
  void ready(Call* call, int error);
  void enqueue(Lane& lane, Call* call);
  void resume(Lane& lane);
  bool runCall(Call& call, NbdOutput& out);
  void leave();

  const NbdExports& exports_;
  const NbdTls tls_;
  const NbdNegotiation::StartTls startTls_;
  NbdAgreement agreed_;
  std::thread thread_;
  std::function<void()> done_;

  // The reader's.
  std::vector<uint8_t> in_;
  size_t begin_ = 0;
  size_t end_ = 0;
  std::vector<uint8_t> payload_;
  NbdOutput out_;
  // Looks for the next request before it sleeps: see receive().
  unsigned sinceReceive_ = 0;
  unsigned spinMisses_ = 0;
  unsigned spinRest_ = 0;

  // One reply at a time.
  std::mutex sendMutex_;
  std::atomic<bool> broken_{false};

  // Guards what follows. May be held while calling a region's waiting room, never the other way round.
  std::mutex mutex_;
  Descriptor socket_;
  bool cut_ = false;
  std::condition_variable room_;
  std::unordered_map<const Call*, std::unique_ptr<Call>> calls_;
  uint64_t callBytes_ = 0;
  Lane waited_;
  Lane slow_;
  bool leaving_ = false;
};

}  // namespace memferry
