#include "fuse_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "fuse_wire.h"
#include "thread_name.h"

namespace memferry {
namespace {

// How many background requests (read-ahead, write-back, O_DIRECT) the kernel may have outstanding. More
// than anybody has: READs that a gate holds back count, and must not keep the WRITEs of a flush from
// being sent.
constexpr uint16_t kMaxBackground = 32768;
// From here on the kernel reads ahead no further; its default of 9 is a window of 9 MiB, too small for a
// fast link with a long round trip.
constexpr uint16_t kCongestionThreshold = 64;
// Requests that wait, and the bytes of WRITEs among them, per mount. The first is above the kernel's
// bound for the same reason; a waiting READ is some 200 bytes.
constexpr size_t kMaxCalls = 65536;
constexpr size_t kMaxCallBytes = 64 << 20;
// Asks the kernel to send again what was read and not answered. Since Linux 6.9; not in older headers.
constexpr int kNotifyResend = 7;
// The oldest dialect spoken: Linux 4.20, for MAX_PAGES.
constexpr uint32_t kOldestMinor = 28;

// A WRITE's payload follows these; reading so that they end at a page boundary aligns it.
constexpr size_t kWriteHeadBytes = sizeof(fuse_in_header) + sizeof(fuse_write_in);

struct FreeAligned {
  void operator()(uint8_t* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<uint8_t, FreeAligned>;

Buffer makeBuffer(size_t bytes) {
  return Buffer(static_cast<uint8_t*>(std::aligned_alloc(kPageBytes, bytes)));
}

}  // namespace

struct FuseServer::Channel {
  int fd = -1;
  Buffer in = makeBuffer(kPageBytes + kMaxIoBytes + kPageBytes);
  Buffer out = makeBuffer(kMaxIoBytes);
  // The request in work here, for INTERRUPT to find.
  std::atomic<uint64_t> current{0};
  // The request here that was interrupted; under the server's mutex.
  uint64_t interrupted = 0;
};

struct FuseServer::Call final : Waiter {
  void wake(int error) override { server->ready(this, error); }

  FuseServer* server = nullptr;
  FuseData data;
  std::vector<uint8_t> payload;
  // Both under the server's mutex until the call is in a resumer's hands.
  int failure = 0;
  bool interrupted = false;
  // Served, and answered once that is durable.
  bool written = false;
};

std::shared_ptr<FuseServer> FuseServer::mount(const Options& options, Failure& failure) {
  std::shared_ptr<FuseServer> server(new FuseServer(options));
  if (options.channels.empty()) {
    failure = server->mounter_.mount({.directory = options.directory, .allowOther = options.allowOther});
    if (!failure) server->openChannels();
  } else {
    failure = server->adopt();
  }
  if (failure) {
    server->stopped_ = true;
    return nullptr;
  }
  // A new mount is asked for its directory at once; one that is taken over is asked for files, which must be
  // there first.
  if (options.channels.empty()) server->serve();
  return server;
}

FuseServer::FuseServer(const Options& options) : options_(options), readAheadBytes_(options.readAheadBytes) {}

FuseServer::~FuseServer() { stop(std::chrono::milliseconds(0)); }

void FuseServer::openChannels() {
  for (unsigned i = 0; i < options_.threads; i++) {
    auto channel = std::make_unique<Channel>();
    const int clone = i == 0 ? -1 : mounter_.clone();
    // Threads may share a channel; they contend a little more.
    channel->fd = clone >= 0 ? clone : mounter_.fd();
    channels_.push_back(std::move(channel));
  }
}

Failure FuseServer::adopt() {
  std::vector<int> copies;
  Failure failure;
  for (const int given : options_.channels) {
    const int copy = ::fcntl(given, F_DUPFD_CLOEXEC, 3);
    if (copy >= 0) {
      copies.push_back(copy);
    } else {
      failure = Failure::system(errno, "fcntl");
    }
  }
  if (!failure) failure = mounter_.adopt(options_.directory, copies.front());
  if (failure) {
    for (const int copy : copies) ::close(copy);
    return failure;
  }
  for (const int copy : copies) {
    auto channel = std::make_unique<Channel>();
    channel->fd = copy;
    channels_.push_back(std::move(channel));
  }
  return {};
}

bool FuseServer::serve() {
  const std::lock_guard stopLock(stopMutex_);
  if (stopped_ || std::exchange(serving_, true)) return true;
  bool resent = true;
  // Before any thread reads: what is read from now on is ours, and must not be sent twice.
  if (!options_.channels.empty()) resent = fuseNotify(mounter_.fd(), kNotifyResend) == 0;
  const bool canAbort = mounter_.canAbort();
  if (!canAbort) stopEvent_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  for (auto& channel : channels_) {
    // Also back: the mode goes with the descriptor, and the server before this one may have had other rights.
    const int flags = ::fcntl(channel->fd, F_GETFL);
    ::fcntl(channel->fd, F_SETFL, canAbort ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
  }
  for (auto& channel : channels_) workers_.emplace_back([this, &channel = *channel] { work(channel); });
  for (unsigned i = 0; i < options_.threads; i++) resumers_.emplace_back([this] { resume(); });
  flusher_.start();
  warmer_.start(directory());
  return resent;
}

std::vector<int> FuseServer::channels() const {
  std::vector<int> out;
  for (const auto& channel : channels_) {
    if (std::find(out.begin(), out.end(), channel->fd) == out.end()) out.push_back(channel->fd);
  }
  return out;
}

Failure FuseServer::add(const std::string& name, std::shared_ptr<Region> region, uint32_t mode, bool readOnly) {
  const std::lock_guard stopLock(stopMutex_);
  if (stopped_) return Failure::named("ENOTCONN", "the mount is gone");
  Failure failure = files_.add(name, std::move(region), mode, readOnly);
  if (!failure && options_.warm) warmer_.add(*files_.find(name));
  return failure;
}

bool FuseServer::setReadAhead(uint64_t bytes) {
  readAheadBytes_ = bytes;
  return mounter_.setReadAhead(bytes);
}

void FuseServer::flush(const std::string& name, bool invalidate, std::function<void(Failure)> done) {
  flusher_.submit(name, invalidate, std::move(done));
}

// --- workers ---

void FuseServer::work(Channel& channel) {
  becomeHelperThread("memferry-fuse");
  uint8_t* const at = channel.in.get() + kPageBytes - kWriteHeadBytes;
  const size_t room = kWriteHeadBytes + kMaxIoBytes + kPageBytes;
  for (;;) {
    if (stopEvent_ >= 0) {
      pollfd watched[2] = {{channel.fd, POLLIN, 0}, {stopEvent_, POLLIN, 0}};
      if (::poll(watched, 2, -1) < 0) continue;
      if (watched[1].revents) return;
    }
    const ssize_t got = ::read(channel.fd, at, room);
    if (got < 0) {
      // ENOENT: the request was taken back before we had it.
      if (errno == EINTR || errno == EAGAIN || errno == ENOENT) continue;
      return;  // ENODEV or ECONNABORTED: unmounted
    }
    if (static_cast<size_t>(got) >= sizeof(fuse_in_header)) dispatch(channel, at, static_cast<size_t>(got));
  }
}

void FuseServer::dispatch(Channel& channel, const uint8_t* request, size_t length) {
  const auto header = fuseBody<fuse_in_header>(request, length);
  const uint8_t* rest = request + sizeof header;
  const size_t restLength = length - sizeof header;
  FuseData data;
  switch (header.opcode) {
    case FUSE_READ:
    case FUSE_WRITE:
      channel.current.store(header.unique);
      if (decodeFuseData(files_, channel.fd, header, rest, restLength, data)) {
        const Served served = serve(data, channel.out.get(), false);
        if (served == Served::waits) wait(channel, data);
        if (served == Served::written) defer(data, true);
      }
      channel.current.store(0);
      return;
    case FUSE_FSYNC:
    case FUSE_FALLOCATE:
      if (decodeFuseData(files_, channel.fd, header, rest, restLength, data)) defer(data);
      return;
    case FUSE_INIT:
      return init(channel, header, fuseBody<fuse_init_in>(rest, restLength));
    case FUSE_INTERRUPT:
      return interrupt(header, fuseBody<fuse_interrupt_in>(rest, restLength).unique);
    default:
      return files_.serve(channel.fd, header, rest, restLength, channel.out.get(), flusher_.threadId());
  }
}

FuseServer::Served FuseServer::serve(const FuseData& data, uint8_t* buffer, bool pass) {
  Region& region = *data.node->region;
  const Admission admission = region.begin(data.access(), data.offset, data.length, pass);
  if (admission.status == Admission::kWait) return Served::waits;
  if (admission.status) {
    fuseReply(data.fd, data.unique, admission.status);
    return Served::done;
  }
  Served served = Served::done;
  // Replied before end(): after a quiesce() no answer is still on its way into the kernel's page cache.
  switch (data.opcode) {
    case FUSE_READ: {
      const uint8_t* const view = region.view(data.offset, data.length);
      const int error = view ? 0 : region.readAt(buffer, data.length, data.offset);
      fuseReply(data.fd, data.unique, error, view ? view : buffer, error ? 0 : data.length);
      break;
    }
    default: {
      const int error = data.opcode == FUSE_WRITE ? region.writeAt(data.bytes, data.length, data.offset)
                                                  : region.zeroAt(data.offset, data.length);
      data.node->touch();
      if (!error && region.writesThrough() && !data.internal) {
        served = Served::written;
      } else {
        replyWritten(data, error);
      }
    }
  }
  region.end(admission);
  return served;
}

std::unique_ptr<FuseServer::Call> FuseServer::makeCall(const FuseData& data) {
  auto call = std::make_unique<Call>();
  call->server = this;
  call->data = data;
  if (data.bytes) {
    // The worker's buffer is needed for the next request. Copied only on a miss.
    call->payload.assign(data.bytes, data.bytes + data.length);
    call->data.bytes = call->payload.data();
  }
  call->access = data.access();
  if (data.opcode != FUSE_FSYNC) {
    call->first = data.node->region->chunkAt(data.offset);
    call->last = data.node->region->chunkAt(data.offset + data.length - 1);
  }
  call->owner = data.node;
  call->offset = data.offset;
  call->length = data.length;
  call->locksPages = data.locksPages;
  return call;
}

void FuseServer::wait(Channel& channel, const FuseData& data) {
  std::unique_ptr<Call> made = makeCall(data);
  Call* const call = made.get();
  for (;;) {
    std::unique_lock lock(mutex_);
    const auto interrupted = [&] { return channel.interrupted == data.unique; };
    room_.wait(lock, [&] {
      return leaving_ || interrupted() ||
             (calls_.size() < kMaxCalls && callBytes_ + call->payload.size() <= kMaxCallBytes);
    });
    int error = leaving_ ? ENOTCONN : interrupted() ? EINTR : 0;
    if (!error) {
      // Registered before it parks: as soon as it has parked, any thread may wake it and finish it.
      callBytes_ += call->payload.size();
      calls_.emplace(data.unique, std::move(made));
      error = data.node->region->waiting().park(*call);
      if (error == 0) return;
      auto taken = calls_.extract(data.unique);
      made = std::move(taken.mapped());
      callBytes_ -= call->payload.size();
    }
    lock.unlock();
    if (error > 0) {
      fuseReply(data.fd, data.unique, error);
      return;
    }
    const Served served = serve(data, channel.out.get(), false);
    if (served == Served::written) return defer(data, true);
    if (served == Served::done) return;
  }
}

void FuseServer::defer(const FuseData& data, bool written) {
  FuseData asked = data;
  if (written) asked.bytes = nullptr;
  std::unique_ptr<Call> call = makeCall(asked);
  call->written = written;
  std::unique_lock lock(mutex_);
  room_.wait(lock, [&] { return leaving_ || calls_.size() < kMaxCalls; });
  // Also while leaving: the resumers stay until there are no calls.
  queue_.push_back(call.get());
  calls_.emplace(data.unique, std::move(call));
  lock.unlock();
  resumable_.notify_one();
}

void FuseServer::interrupt(const fuse_in_header& header, uint64_t target) {
  int fd = -1;
  {
    const std::lock_guard lock(mutex_);
    const auto found = calls_.find(target);
    if (found != calls_.end()) {
      Call& call = *found->second;
      if (call.data.node->region->waiting().cancel(call)) {
        fd = call.data.fd;
        callBytes_ -= call.payload.size();
        calls_.erase(found);
      } else {
        // About to be served. If it has to park again, it will be refused.
        call.interrupted = true;
      }
    } else {
      for (auto& other : channels_) {
        if (other->current.load() == target) {
          other->interrupted = target;
          target = 0;
          break;
        }
      }
    }
    if (found != calls_.end() || fd >= 0 || target == 0) room_.notify_all();
    if (fd < 0 && (found != calls_.end() || target == 0)) return;
  }
  if (fd >= 0) {
    fuseReply(fd, target, EINTR);
    return;
  }
  // Answered already, or another worker has just read it and not said so yet. EAGAIN makes the kernel
  // repeat the INTERRUPT if the request is still open, and is refused where it is not.
  for (auto& other : channels_) fuseReply(other->fd, header.unique, EAGAIN);
}

void FuseServer::init(Channel& channel, const fuse_in_header& header, const fuse_init_in& in) {
  fuse_init_out out{};
  out.major = FUSE_KERNEL_VERSION;
  out.minor = FUSE_KERNEL_MINOR_VERSION;
  if (in.major > FUSE_KERNEL_VERSION) {
    // The kernel asks again in our version.
    fuseReply(channel.fd, header.unique, 0, &out, sizeof out);
    return;
  }
  if (in.major < FUSE_KERNEL_VERSION || in.minor < kOldestMinor) {
    fuseReply(channel.fd, header.unique, EPROTO);
    return;
  }
  // No WRITEBACK_CACHE: the kernel would hold back write(2) data as it does mmap data, and invent sizes
  // and times. No POSIX_LOCKS, no FLOCK_LOCKS: the kernel then keeps locks itself.
  constexpr uint32_t kWanted = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS |
                               FUSE_ASYNC_DIO | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO;
  out.flags = in.flags & kWanted;
  out.max_readahead = static_cast<uint32_t>(std::min<uint64_t>(readAheadBytes_, UINT32_MAX));
  out.max_background = kMaxBackground;
  out.congestion_threshold = kCongestionThreshold;
  out.max_write = kMaxIoBytes;
  out.max_pages = static_cast<uint16_t>(
      std::max<size_t>(1, kMaxIoBytes / static_cast<size_t>(::sysconf(_SC_PAGESIZE))));
  out.time_gran = 1;
  fuseReply(channel.fd, header.unique, 0, &out, sizeof out);
  mounter_.setReadAhead(readAheadBytes_);  // best effort
}

// --- resumers ---

void FuseServer::ready(Call* call, int error) {
  {
    const std::lock_guard lock(mutex_);
    call->failure = error;
    queue_.push_back(call);
  }
  resumable_.notify_one();
}

void FuseServer::resume() {
  becomeHelperThread("memferry-resume");
  const Buffer buffer = makeBuffer(kMaxIoBytes);
  std::unique_lock lock(mutex_);
  for (;;) {
    resumable_.wait(lock, [&] { return !queue_.empty() || (resumersLeave_ && calls_.empty()); });
    if (queue_.empty()) return;
    Call* const call = queue_.front();
    queue_.pop_front();
    lock.unlock();
    runCall(call, buffer.get());
    lock.lock();
  }
}

void FuseServer::runCall(Call* call, uint8_t* buffer) {
  const FuseData& data = call->data;
  if (call->failure) {
    fuseReply(data.fd, data.unique, call->failure);
  } else {
    while (!call->written && data.opcode != FUSE_FSYNC) {
      const Served served = serve(data, buffer, call->pass);
      call->written = served == Served::written;
      if (served != Served::waits) break;
      int error;
      {
        const std::lock_guard lock(mutex_);
        error = leaving_ ? ENOTCONN : call->interrupted ? EINTR : data.node->region->waiting().park(*call);
      }
      if (error == 0) return;  // parked: no longer ours
      if (error > 0) {
        fuseReply(data.fd, data.unique, error);
        break;
      }
    }
    if ((call->written || data.opcode == FUSE_FSYNC) && !finishSync(*call)) return;
  }
  bool last;
  std::unique_ptr<Call> gone;
  {
    const std::lock_guard lock(mutex_);
    callBytes_ -= call->payload.size();
    gone = std::move(calls_.extract(data.unique).mapped());
    last = calls_.empty() && resumersLeave_;
  }
  room_.notify_all();
  if (last) resumable_.notify_all();
}

// False: it waits and is no longer ours.
bool FuseServer::finishSync(Call& call) {
  const FuseData& data = call.data;
  int error = -1;
  if (!data.internal) {
    const std::lock_guard lock(mutex_);
    error = leaving_ ? ENOTCONN : call.interrupted ? EINTR : data.node->region->awaitSync(call);
  }
  if (error == 0) return false;
  if (error < 0) error = data.internal ? 0 : data.node->region->syncForExport();
  replyWritten(data, error);
  return true;
}

void FuseServer::replyWritten(const FuseData& data, int error) {
  if (data.opcode != FUSE_WRITE) return fuseReply(data.fd, data.unique, error);
  fuse_write_out out{};
  out.size = static_cast<uint32_t>(data.length);
  fuseReply(data.fd, data.unique, error, &out, error ? 0 : sizeof out);
}

int FuseServer::notifyInvalidate(const FuseNode& target, const Range& range) {
  fuse_notify_inval_inode_out body{};
  body.ino = target.id;
  body.off = static_cast<int64_t>(range.offset);
  body.len = static_cast<int64_t>(range.length);
  const int error = fuseNotify(mounter_.fd(), FUSE_NOTIFY_INVAL_INODE, &body, sizeof body);
  // ENOENT: the kernel does not have the file in memory, so nothing of it is cached.
  return error == ENOENT ? 0 : error;
}

// --- the end ---

void FuseServer::stop(std::chrono::milliseconds patience) {
  const std::lock_guard stopLock(stopMutex_);
  if (std::exchange(stopped_, true)) return;

  // From here on nothing parks: what would wait is refused, so nothing below waits for a chunk.
  std::vector<std::unique_ptr<Call>> cancelled;
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
    for (auto at = calls_.begin(); at != calls_.end();) {
      Call& call = *at->second;
      if (call.data.node->region->waiting().cancel(call)) {
        callBytes_ -= call.payload.size();
        cancelled.push_back(std::move(at->second));
        at = calls_.erase(at);
      } else {
        ++at;
      }
    }
  }
  room_.notify_all();
  for (const auto& call : cancelled) fuseReply(call->data.fd, call->data.unique, ENOTCONN);

  // Taken over and never served: nobody answers what is waited for below.
  if (!serving_) mounter_.abort();

  // A store that has stopped answering must not hold us: past its patience the connection is cut, and
  // then every system call below returns.
  std::mutex watchMutex;
  std::condition_variable watched;
  bool finished = false;
  std::thread watchdog([&] {
    becomeHelperThread("memferry-watch");
    std::unique_lock lock(watchMutex);
    if (!watched.wait_for(lock, patience, [&] { return finished; })) mounter_.abort();
  });

  // It has a file open, and needs the workers.
  warmer_.stop();
  // Dirty pages of mappings that are still there: a lazy unmount would leave them for later, and later
  // there is nobody to take them.
  const int root = serving_ ? ::open(directory().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  if (root >= 0) {
    ::syncfs(root);  // best effort: the gate may refuse
    ::close(root);
  }
  mounter_.unmount();
  mounter_.abort();
  {
    const std::lock_guard lock(watchMutex);
    finished = true;
  }
  watched.notify_all();
  watchdog.join();

  // Where the connection could not be cut, the flusher still needs the workers; so it goes first.
  flusher_.stop();
  if (stopEvent_ >= 0) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t put = ::write(stopEvent_, &one, sizeof one);
  }
  for (std::thread& worker : workers_) worker.join();
  {
    const std::lock_guard lock(mutex_);
    resumersLeave_ = true;
  }
  resumable_.notify_all();
  for (std::thread& resumer : resumers_) resumer.join();

  for (auto& channel : channels_) {
    if (channel->fd != mounter_.fd()) ::close(channel->fd);
  }
  mounter_.closeChannel();
  if (stopEvent_ >= 0) ::close(stopEvent_);
  mounter_.removeDirectory();
  // Regions may be closed now.
  files_.clear();
}

}  // namespace memferry
