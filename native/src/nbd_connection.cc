#include "nbd_connection.h"

#include <poll.h>
#include <sched.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "thread_name.h"

namespace memferry {

using nbd::Command;
using nbd::Reader;

namespace {

constexpr size_t kInputBytes = 64 << 10;
// Requests that wait, and the bytes of WRITEs among them, per connection.
constexpr size_t kMaxCalls = 1024;
constexpr uint64_t kMaxCallBytes = 64 << 20;
// Zeroing this much and more is not done between two requests.
constexpr uint64_t kSlowZeroBytes = 1 << 20;
// Payload that is too much is read past, so that the client can be told; more than this is not a mistake.
constexpr uint64_t kMaxDiscardBytes = 256 << 20;
// A payload buffer above this goes as soon as it was used.
constexpr size_t kKeptPayloadBytes = 2 << 20;
// WRITEs of this much and more are not copied on the way where they need not be.
constexpr size_t kDirectBytes = 32 << 10;
// How long a reader stays awake for the next request, and how rarely it tries where none came: once in 2^10.
constexpr std::chrono::microseconds kSpin{40};
constexpr unsigned kMaxSpinMisses = 10;
// How long it leaves a client alone that sends several at once.
constexpr std::chrono::microseconds kLinger{4};

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}
// What each step of the negotiation may take.
constexpr timeval kPatience{10, 0};

bool isSlow(Command command, uint16_t flags, uint64_t length) {
  return command == Command::flush || (flags & nbd::kFlagFua) ||
         ((command == Command::trim || command == Command::writeZeroes) && length >= kSlowZeroBytes);
}

void setPatience(int fd, timeval patience) {
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

}  // namespace

struct NbdConnection::Call final : Waiter {
  void wake(int error) override { connection->ready(this, error); }

  NbdConnection* connection = nullptr;
  Request request;
  std::vector<uint8_t> payload;
  int failure = 0;
};

// --- beginning and end ---

NbdConnection::NbdConnection(const NbdExports& exports, NbdTls tls, NbdNegotiation::StartTls startTls,
                             Descriptor socket)
    : exports_(exports), tls_(tls), startTls_(std::move(startTls)), socket_(std::move(socket)) {}

NbdConnection::NbdConnection(const NbdExports& exports, std::shared_ptr<const NbdExport> target, Descriptor socket)
    : exports_(exports), tls_(NbdTls::off), socket_(std::move(socket)) {
  agreed_.target = std::move(target);
}

NbdConnection::~NbdConnection() { stop(); }

void NbdConnection::start(std::function<void()> done) {
  done_ = std::move(done);
  thread_ = std::thread([this] { run(); });
}

void NbdConnection::cut() {
  const std::lock_guard lock(mutex_);
  cut_ = true;
  room_.notify_all();
  if (socket_) ::shutdown(socket_.get(), SHUT_RDWR);
}

void NbdConnection::stop() {
  cut();
  if (thread_.joinable()) thread_.join();
}

void NbdConnection::run() {
  becomeHelperThread("memferry-nbd");
  if (agreed_.target || negotiate()) {
    setPatience(socket_.get(), {});
    transmit();
  }
  leave();
  {
    const std::lock_guard lock(mutex_);
    socket_.reset();
  }
  done_();
}

bool NbdConnection::negotiate() {
  setPatience(socket_.get(), kPatience);
  NbdNegotiation negotiation(exports_, tls_, [this](Descriptor& socket) {
    // cut() may come at any time and must find the socket that we read from.
    std::unique_lock lock(mutex_);
    Descriptor plain = std::move(socket);
    lock.unlock();
    const bool started = startTls_(plain);
    lock.lock();
    socket = std::move(plain);
    if (!started || cut_) return false;
    setPatience(socket.get(), kPatience);
    return true;
  });
  return negotiation.run(socket_, agreed_);
}

void NbdConnection::leave() {
  std::vector<std::unique_ptr<Call>> cancelled;
  {
    std::unique_lock lock(mutex_);
    leaving_ = true;
    // Ends a resumer's send.
    ::shutdown(socket_.get(), SHUT_RDWR);
    for (auto at = calls_.begin(); at != calls_.end();) {
      if (agreed_.target->region->waiting().cancel(*at->second)) {
        cancelled.push_back(std::move(at->second));
        at = calls_.erase(at);
      } else {
        ++at;
      }
    }
    room_.wait(lock, [&] { return calls_.empty(); });
  }
  for (Lane* lane : {&waited_, &slow_}) {
    lane->wake.notify_all();
    if (lane->thread.joinable()) lane->thread.join();
  }
  agreed_.target.reset();
}

// --- requests ---

void NbdConnection::transmit() {
  in_.resize(kInputBytes);
  Request request;
  while (next(request)) {
    if (request.command == Command::disconnect) return;
    handle(request);
    if (payload_.size() > kKeptPayloadBytes) std::vector<uint8_t>().swap(payload_);
    if (out_.full() && !flush(out_)) return;
  }
}

bool NbdConnection::next(Request& request) {
  const size_t head = agreed_.extended ? nbd::kExtendedRequestBytes : nbd::kRequestBytes;
  if (!fill(head)) return false;
  sinceReceive_++;
  Reader reader(in_.data() + begin_, head);
  if (reader.u32() != (agreed_.extended ? nbd::kExtendedRequestMagic : nbd::kRequestMagic)) return false;
  request = {};
  request.flags = reader.u16();
  request.command = static_cast<Command>(reader.u16());
  request.cookie = reader.u64();
  request.asked = request.offset = reader.u64();
  request.length = agreed_.extended ? reader.u64() : reader.u32();
  begin_ += head;
  const bool counted = agreed_.extended && (request.flags & nbd::kFlagPayloadLength);
  if (request.command == Command::write) {
    // Without it, nobody can say how much follows.
    if (agreed_.extended && !counted) return false;
    request.flags &= static_cast<uint16_t>(~nbd::kFlagPayloadLength);
    return takeDirectly(request) && takePayload(request);
  }
  // A payload that nobody asked for is read past; check() refuses the flag.
  return !counted || discard(request.length);
}

// At least `wanted` bytes in the buffer. Replies leave before anything is waited for.
bool NbdConnection::fill(size_t wanted) {
  while (end_ - begin_ < wanted) {
    if (begin_ > 0) {
      std::memmove(in_.data(), in_.data() + begin_, end_ - begin_);
      end_ -= std::exchange(begin_, 0);
    }
    if (!flush(out_) || !receive(in_.size() - end_)) return false;
  }
  return true;
}

// A thread that sleeps is woken by way of the scheduler, which costs more than a request. A client that asks
// one thing after the other gets its answer from one that is still awake; where that does not pay, we look
// less and less often. Yielding lets a client have this core if it is the only one.
bool NbdConnection::receive(size_t room) {
  ssize_t got = -1;
  const bool several = std::exchange(sinceReceive_, 0) > 1;
  if (spinRest_ > 0) {
    spinRest_--;
  } else {
    auto now = std::chrono::steady_clock::now();
    const auto until = now + kSpin;
    // Who has several under way is served better by batches, and sends into an untouched queue faster.
    for (const auto linger = now + kLinger; several && now < linger; now = std::chrono::steady_clock::now()) {
      relax();
    }
    do {
      got = ::recv(socket_.get(), in_.data() + end_, room, MSG_DONTWAIT);
      if (got >= 0 || (errno != EAGAIN && errno != EINTR)) break;
      ::sched_yield();
      for (int i = 0; i < 32; i++) relax();
    } while (std::chrono::steady_clock::now() < until);
    spinMisses_ = got > 0 ? 0 : std::min(spinMisses_ + 1, kMaxSpinMisses);
    if (spinMisses_ > 0) spinRest_ = 1u << spinMisses_;
  }
  if (got < 0) got = receiveSome(socket_.get(), in_.data() + end_, room);
  if (got <= 0) return false;
  end_ += static_cast<size_t>(got);
  return true;
}

// Piece by piece, as they come: between two pieces the gate may shut, however slowly the client sends. It finds
// the rest of the request where every other is.
bool NbdConnection::takeDirectly(Request& request) {
  if (request.length < kDirectBytes || check(request) != 0) return true;
  Region& region = *agreed_.target->region;
  while (request.length > 0) {
    const Admission admission = region.begin(Access::write, request.offset, request.length);
    if (admission.status) return true;
    const size_t room = std::min<uint64_t>(request.length, NbdOutput::kPieceBytes);
    uint8_t* const into = region.beginWrite(request.offset, room);
    if (!into) {
      region.end(admission);
      return true;
    }
    const size_t here = std::min(end_ - begin_, room);
    ssize_t got = static_cast<ssize_t>(here);
    if (here > 0) {
      std::memcpy(into, in_.data() + begin_, here);
      begin_ += here;
    } else {
      got = ::recv(socket_.get(), into, room, MSG_DONTWAIT);
    }
    if (got > 0) region.endWrite(request.offset, static_cast<size_t>(got));
    region.end(admission);
    if (got > 0) {
      request.offset += static_cast<uint64_t>(got);
      request.length -= static_cast<uint64_t>(got);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      return false;
    } else {
      if (!flush(out_)) return false;
      pollfd watched{socket_.get(), POLLIN, 0};
      ::poll(&watched, 1, -1);
    }
  }
  return true;
}

bool NbdConnection::takePayload(Request& request) {
  if (request.length == 0) return true;
  if (request.length > kNbdMaxPayload) return discard(request.length);
  if (request.length <= in_.size() / 2) {
    if (!fill(request.length)) return false;
    request.payload = in_.data() + begin_;
    begin_ += request.length;
    return true;
  }
  if (payload_.size() < request.length) payload_.resize(request.length);
  const size_t here = std::min<size_t>(end_ - begin_, request.length);
  std::memcpy(payload_.data(), in_.data() + begin_, here);
  begin_ += here;
  request.payload = payload_.data();
  return flush(out_) && receiveAll(socket_.get(), payload_.data() + here, request.length - here);
}

bool NbdConnection::discard(uint64_t length) {
  if (length > kMaxDiscardBytes) return false;
  while (length > 0) {
    if (begin_ == end_ && !fill(1)) return false;
    const size_t step = std::min<uint64_t>(end_ - begin_, length);
    begin_ += step;
    length -= step;
  }
  return true;
}

int NbdConnection::check(const Request& request) const {
  uint16_t allowed = 0;
  bool writes = false;
  switch (request.command) {
    case Command::read:
      allowed = nbd::kFlagDf;
      break;
    case Command::write:
      allowed = nbd::kFlagFua;
      writes = true;
      break;
    case Command::flush:
      return request.flags ? EINVAL : 0;
    case Command::trim:
      allowed = nbd::kFlagFua;
      writes = true;
      break;
    case Command::cache:
      break;
    case Command::writeZeroes:
      allowed = nbd::kFlagFua | nbd::kFlagNoHole | nbd::kFlagFastZero;
      writes = true;
      break;
    case Command::blockStatus:
      allowed = nbd::kFlagReqOne;
      if (!agreed_.allocation && !agreed_.dirty) return EINVAL;
      break;
    default:
      return EINVAL;
  }
  if (request.flags & ~allowed) return EINVAL;
  if (writes && agreed_.target->readOnly) return EPERM;
  const uint64_t size = agreed_.target->region->bytes();
  if (request.offset > size || request.length > size - request.offset) return writes ? ENOSPC : EINVAL;
  if (request.length == 0) return EINVAL;
  const bool carries = request.command == Command::read || request.command == Command::write;
  if (carries && request.length > kNbdMaxPayload) return EOVERFLOW;
  return 0;
}

void NbdConnection::handle(Request& request) {
  // A WRITE of which nothing is left went straight to its place.
  const bool written = request.command == Command::write && request.offset != request.asked && request.length == 0;
  // What is left of a durable one is to make it so.
  if (written && ((request.flags & nbd::kFlagFua) || agreed_.target->region->writesThrough())) {
    request.command = Command::flush;
    return defer(request);
  }
  const int error = written ? 0 : check(request);
  if (!error && request.access() == Access::write && request.command != Command::flush &&
      agreed_.target->region->writesThrough()) {
    request.flags |= nbd::kFlagFua;
  }
  if (error) {
    reply(request, error, out_);
  } else if (request.command == Command::blockStatus) {
    serveStatus(request, out_);
  } else if (written) {
    reply(request, 0, out_);
  } else if (isSlow(request.command, request.flags, request.length)) {
    defer(request);
  } else if (!serve(request, out_)) {
    park(request);
  }
}

// --- what waits ---

std::unique_ptr<NbdConnection::Call> NbdConnection::makeCall(const Request& request) {
  auto call = std::make_unique<Call>();
  call->connection = this;
  call->request = request;
  if (request.payload) {
    // The reader's buffers are needed for the next request.
    call->payload.assign(request.payload, request.payload + request.length);
    call->request.payload = call->payload.data();
  }
  call->access = request.access();
  if (request.command != Command::flush) aim(*call);
  return call;
}

// Has it wait for what is left of its request.
void NbdConnection::aim(Call& call) const {
  const Region& region = *agreed_.target->region;
  call.first = region.chunkAt(call.request.offset);
  call.last = region.chunkAt(call.request.offset + call.request.length - 1);
}

bool NbdConnection::hasRoom(uint64_t payload) const {
  return cut_ || broken_.load() || (calls_.size() < kMaxCalls && callBytes_ + payload <= kMaxCallBytes);
}

void NbdConnection::park(const Request& asked) {
  // Before we may wait for room: the client's next move may depend on these.
  if (!flush(out_)) return;
  std::unique_ptr<Call> made = makeCall(asked);
  Call* const call = made.get();
  for (;;) {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return hasRoom(call->payload.size()); });
    if (cut_ || broken_.load()) return;
    // Registered before it parks: as soon as it has parked, any thread may wake it and finish it.
    callBytes_ += call->payload.size();
    calls_.emplace(call, std::move(made));
    const int error = agreed_.target->region->waiting().park(*call);
    if (error == 0) return;
    made = std::move(calls_.extract(call).mapped());
    callBytes_ -= call->payload.size();
    lock.unlock();
    if (error > 0) return reply(call->request, error, out_);
    if (serve(call->request, out_)) return;
    aim(*call);
  }
}

void NbdConnection::defer(const Request& request) {
  if (!flush(out_)) return;
  std::unique_ptr<Call> made = makeCall(request);
  std::unique_lock lock(mutex_);
  room_.wait(lock, [&] { return hasRoom(made->payload.size()); });
  if (cut_ || broken_.load()) return;
  callBytes_ += made->payload.size();
  Call* const call = made.get();
  calls_.emplace(call, std::move(made));
  enqueue(slow_, call);
}

void NbdConnection::ready(Call* call, int error) {
  const std::lock_guard lock(mutex_);
  call->failure = error;
  const Request& request = call->request;
  enqueue(isSlow(request.command, request.flags, request.length) ? slow_ : waited_, call);
}

// Under the mutex.
void NbdConnection::enqueue(Lane& lane, Call* call) {
  lane.queue.push_back(call);
  if (!lane.thread.joinable()) lane.thread = std::thread([this, &lane] { resume(lane); });
  lane.wake.notify_one();
}

void NbdConnection::resume(Lane& lane) {
  becomeHelperThread("memferry-nbd-re");
  NbdOutput out;
  std::unique_lock lock(mutex_);
  for (;;) {
    if (lane.queue.empty() && out.length() > 0) {
      lock.unlock();
      flush(out);
      lock.lock();
      continue;
    }
    lane.wake.wait(lock, [&] { return !lane.queue.empty() || (leaving_ && calls_.empty()); });
    if (lane.queue.empty()) return;
    Call* const call = lane.queue.front();
    lane.queue.pop_front();
    lock.unlock();
    const bool over = runCall(*call, out);
    if (out.full()) flush(out);
    lock.lock();
    if (!over) continue;
    callBytes_ -= call->payload.size();
    calls_.erase(call);
    room_.notify_all();
  }
}

// False: it waits again and is no longer ours.
bool NbdConnection::runCall(Call& call, NbdOutput& out) {
  if (call.failure) {
    reply(call.request, call.failure, out);
    return true;
  }
  Region& region = *agreed_.target->region;
  // Serving a durable write turns it into a flush.
  while (call.request.command == Command::flush || !serve(call.request, out)) {
    // What a READ has so far does not wait with it.
    flush(out);
    const bool syncs = call.request.command == Command::flush;
    if (!syncs) aim(call);
    int error;
    {
      const std::lock_guard lock(mutex_);
      error = leaving_ ? ENOTCONN : syncs ? region.awaitSync(call) : region.waiting().park(call);
    }
    if (syncs && error < 0) {
      reply(call.request, region.syncForExport(), out);
      return true;
    }
    if (error == 0) return false;
    if (error > 0) {
      reply(call.request, error, out);
      return true;
    }
  }
  return true;
}

}  // namespace memferry
