#include "direct_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/udp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "socket_options.h"
#include "thread_name.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

namespace memferry {
namespace {

// At 10 Gbit/s a thread may be held up for several milliseconds.
constexpr int kSocketBufferBytes = 16 * 1024 * 1024;
constexpr size_t kDatagramsMax = 64;
constexpr size_t kReceiveBytes = 64 * 1024;
// Of one GRO buffer.
constexpr size_t kSegmentsMax = 128;
// Datagrams taken before anything is sent: acknowledgements must not wait for the end of a flood.
constexpr unsigned kReceiveTurns = 32;
// Written and not sent, per stream: beyond, the writer waits.
constexpr uint64_t kUnsentMax = 512 * 1024;
constexpr uint64_t kUnsentLow = 256 * 1024;
constexpr auto kSettleTime = std::chrono::milliseconds(3'000);

uint64_t microseconds() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000 + static_cast<uint64_t>(time.tv_nsec) / 1'000;
}

void setOption(int socket, int level, int name, int value) { setsockopt(socket, level, name, &value, sizeof value); }

std::string textOf(const sockaddr_in6& address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (IN6_IS_ADDR_V4MAPPED(&address.sin6_addr)) {
    inet_ntop(AF_INET, &address.sin6_addr.s6_addr[12], text, sizeof text);
  } else {
    inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof text);
  }
  return text;
}

sockaddr_in6 mapped(const sockaddr_in& from) {
  sockaddr_in6 to{};
  to.sin6_family = AF_INET6;
  to.sin6_port = from.sin_port;
  to.sin6_addr.s6_addr[10] = to.sin6_addr.s6_addr[11] = 0xff;
  std::memcpy(&to.sin6_addr.s6_addr[12], &from.sin_addr, 4);
  return to;
}

}  // namespace

std::shared_ptr<DirectSocket> DirectSocket::open(uint16_t port, std::function<void()> wake, Failure& failure) {
  std::shared_ptr<DirectSocket> made(new DirectSocket);
  int family = AF_INET6;
  int fd = ::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) {
    family = AF_INET;
    fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  }
  if (fd < 0) {
    failure = Failure::system(errno, "socket");
    return nullptr;
  }
  made->socket_ = fd;
  made->ipv4Only_ = family == AF_INET;
  sockaddr_in6 local{};
  socklen_t length = sizeof local;
  if (made->ipv4Only_) {
    auto& narrow = reinterpret_cast<sockaddr_in&>(local);
    narrow.sin_family = AF_INET;
    narrow.sin_port = htons(port);
    length = sizeof narrow;
  } else {
    setOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    local.sin6_family = AF_INET6;
    local.sin6_port = htons(port);
  }
  if (bind(fd, reinterpret_cast<sockaddr*>(&local), length) != 0) {
    failure = Failure::system(errno, "bind");
    return nullptr;
  }
  getsockname(fd, reinterpret_cast<sockaddr*>(&local), &length);
  made->port_ = ntohs(made->ipv4Only_ ? reinterpret_cast<sockaddr_in&>(local).sin_port : local.sin6_port);
  raiseSocketBuffer(fd, kSocketBufferBytes, SO_RCVBUFFORCE, SO_RCVBUF);
  raiseSocketBuffer(fd, kSocketBufferBytes, SO_SNDBUFFORCE, SO_SNDBUF);
  // Packets are sized by what was found to arrive, not by what the kernel was told of the path: that could be forged.
  setOption(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
  if (!made->ipv4Only_) setOption(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
  setOption(fd, SOL_UDP, UDP_GRO, 1);
  made->wakeUp_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  made->timer_ = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  made->poll_ = epoll_create1(EPOLL_CLOEXEC);
  if (made->wakeUp_ < 0 || made->timer_ < 0 || made->poll_ < 0) {
    failure = Failure::system(errno, "epoll");
    return nullptr;
  }
  for (const int one : {made->wakeUp_, made->timer_, made->socket_}) {
    epoll_event event{};
    event.events = one == made->socket_ ? EPOLLIN | EPOLLOUT | EPOLLET : EPOLLIN;
    event.data.fd = one;
    epoll_ctl(made->poll_, EPOLL_CTL_ADD, one, &event);
  }
  made->buffer_.resize(kReceiveBytes);
  made->macs_.resize(kSegmentsMax * direct::kMacBytes);
  made->wake_ = std::move(wake);
  made->thread_ = std::thread([self = made.get()] { self->run(); });
  return made;
}

DirectSocket::~DirectSocket() {
  stop(false, 0, "gone");
  for (const int fd : {socket_, wakeUp_, timer_, poll_}) {
    if (fd >= 0) ::close(fd);
  }
}

bool DirectSocket::parse(const std::string& address, uint16_t port, sockaddr_in6& out) const {
  out = {};
  sockaddr_in narrow{};
  narrow.sin_port = htons(port);
  if (inet_pton(AF_INET, address.c_str(), &narrow.sin_addr) == 1) {
    out = mapped(narrow);
    return true;
  }
  out.sin6_family = AF_INET6;
  out.sin6_port = htons(port);
  return inet_pton(AF_INET6, address.c_str(), &out.sin6_addr) == 1 && !ipv4Only_;
}

namespace {

struct Target {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

Target targetOf(const sockaddr_in6& address, bool ipv4Only) {
  Target target;
  if (ipv4Only) {
    auto& narrow = reinterpret_cast<sockaddr_in&>(target.storage);
    narrow.sin_family = AF_INET;
    narrow.sin_port = address.sin6_port;
    std::memcpy(&narrow.sin_addr, &address.sin6_addr.s6_addr[12], 4);
    target.length = sizeof narrow;
  } else {
    std::memcpy(&target.storage, &address, sizeof address);
    target.length = sizeof address;
  }
  return target;
}

}  // namespace

bool DirectSocket::send(const uint8_t* data, size_t length, const std::string& address, uint16_t port) {
  sockaddr_in6 to;
  if (!parse(address, port, to)) return false;
  const Target target = targetOf(to, ipv4Only_);
  sendto(socket_, data, length, MSG_DONTWAIT | MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&target.storage), target.length);
  return true;
}

bool DirectSocket::connect(const direct::ConnectionOptions& options, const std::string& address, uint16_t port) {
  sockaddr_in6 to;
  if (!parse(address, port, to)) return false;
  {
    const std::lock_guard lock(mutex_);
    if (connection_ || stopping_) return false;
    remote_ = to;
    connection_ = std::make_unique<direct::Connection>(options, microseconds());
  }
  kick();
  return true;
}

bool DirectSocket::write(unsigned stream, const uint8_t* data, size_t length) {
  bool more;
  {
    const std::lock_guard lock(mutex_);
    if (!connection_ || stopping_) return true;
    connection_->write(stream, data, length);
    more = connection_->unsent(stream) <= kUnsentMax || connection_->closed();
    // An earlier writer may still wait for what it was told, though this one need not.
    if (!more) wantsWrite_[stream] = true;
  }
  kick();
  return more;
}

void DirectSocket::end(unsigned stream) {
  {
    const std::lock_guard lock(mutex_);
    if (connection_) connection_->end(stream);
  }
  kick();
}

size_t DirectSocket::readable(unsigned stream) {
  const std::lock_guard lock(mutex_);
  return connection_ ? static_cast<size_t>(connection_->readable(stream)) : 0;
}

bool DirectSocket::finished(unsigned stream) {
  const std::lock_guard lock(mutex_);
  return connection_ && connection_->finished(stream);
}

void DirectSocket::read(unsigned stream, uint8_t* out, size_t length) {
  bool due;
  {
    const std::lock_guard lock(mutex_);
    connection_->read(stream, out, length);
    const uint64_t now = microseconds();
    due = connection_->nextAt(now) <= now;
  }
  // The other side may be waiting for room.
  if (due) kick();
}

DirectSocket::Events DirectSocket::poll() {
  woken_.store(false);
  const std::lock_guard lock(mutex_);
  return std::exchange(events_, {});
}

direct::ConnectionStats DirectSocket::stats() {
  const std::lock_guard lock(mutex_);
  return connection_ ? connection_->stats(microseconds()) : direct::ConnectionStats{};
}

std::string DirectSocket::closeReason() {
  const std::lock_guard lock(mutex_);
  return connection_ && connection_->closed() ? connection_->closeReason() : std::string();
}

uint16_t DirectSocket::closeCode() {
  const std::lock_guard lock(mutex_);
  return connection_ && connection_->closed() ? connection_->closeCode() : 0;
}

DirectSocket::Datagram DirectSocket::remote() {
  const std::lock_guard lock(mutex_);
  return {{}, textOf(remote_), ntohs(remote_.sin6_port)};
}

void DirectSocket::stop(bool settle, uint16_t code, const std::string& reason) {
  std::unique_lock lock(mutex_);
  if (settle && connection_ && !stopping_) {
    changed_.wait_for(lock, kSettleTime, [this] { return connection_->settled() || connection_->closed() || stopping_; });
  }
  if (!stopping_) {
    stopping_ = true;
    if (connection_) connection_->close(code, reason);
    lock.unlock();
    kick();
    if (thread_.joinable()) thread_.join();
    lock.lock();
    stopped_ = true;
    changed_.notify_all();
  } else {
    changed_.wait(lock, [this] { return stopped_; });
  }
}

void DirectSocket::kick() {
  const uint64_t one = 1;
  // Full means that it is awake already.
  [[maybe_unused]] const ssize_t done = ::write(wakeUp_, &one, sizeof one);
}

void DirectSocket::run() {
  becomeHelperThread("memferry-direct");
  for (;;) {
    uint64_t now;
    bool again;
    uint64_t next = UINT64_MAX;
    {
      std::unique_lock lock(mutex_);
      receiveAll();
      now = microseconds();
      bool room = true;
      if (connection_) {
        connection_->tick(now);
        room = sendAll(now);
        now = microseconds();
        next = room ? connection_->nextAt(now) : now + 1'000;
      }
      collect();
      if (connection_ && (connection_->settled() || connection_->closed())) changed_.notify_all();
      if (stopping_ && (!connection_ || next == UINT64_MAX || !room)) return;
      again = !events_.datagrams.empty() || !events_.readable.empty() || !events_.writable.empty() || events_.closed;
    }
    if (again && !woken_.exchange(true)) wake_();
    if (next > now) {
      itimerspec when{};
      if (next != UINT64_MAX) {
        when.it_value.tv_sec = static_cast<time_t>(next / 1'000'000);
        when.it_value.tv_nsec = static_cast<long>(next % 1'000'000) * 1'000;
      }
      timerfd_settime(timer_, TFD_TIMER_ABSTIME, &when, nullptr);
    }
    epoll_event ready[3];
    const int count = epoll_wait(poll_, ready, 3, next <= now ? 0 : -1);
    for (int i = 0; i < count; i++) {
      uint64_t ignored;
      if (ready[i].data.fd == socket_) continue;
      [[maybe_unused]] const ssize_t done = ::read(ready[i].data.fd, &ignored, sizeof ignored);
    }
  }
}

void DirectSocket::receiveAll() {
  for (unsigned turn = 0; turn < kReceiveTurns; turn++) {
    sockaddr_storage storage{};
    iovec part{buffer_.data(), buffer_.size()};
    alignas(cmsghdr) char control[64];
    msghdr message{};
    message.msg_name = &storage;
    message.msg_namelen = sizeof storage;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t length = recvmsg(socket_, &message, MSG_DONTWAIT);
    if (length < 0) {
      // What an earlier datagram of ours met on its way is told here too; it says nothing of the next.
      if (errno == EINTR || errno == ECONNREFUSED || errno == EHOSTUNREACH || errno == ENETUNREACH || errno == EMSGSIZE) continue;
      return;
    }
    // Of each one: what came while others were looked at would seem to have waited here, and the path to be shorter.
    const uint64_t now = microseconds();
    size_t size = static_cast<size_t>(length);
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_UDP || header->cmsg_type != UDP_GRO) continue;
      int segment;
      std::memcpy(&segment, CMSG_DATA(header), sizeof segment);
      if (segment > 0) size = static_cast<size_t>(segment);
    }
    sockaddr_in6 from{};
    if (storage.ss_family == AF_INET) from = mapped(reinterpret_cast<const sockaddr_in&>(storage));
    else std::memcpy(&from, &storage, sizeof from);
    const size_t whole = size > 0 ? static_cast<size_t>(length) / size : 0;
    const bool expected = whole > 1 && whole <= kSegmentsMax && connection_ &&
                          connection_->expect(buffer_.data(), size, whole, macs_.data());
    for (size_t at = 0, i = 0; at < static_cast<size_t>(length); at += size, i++) {
      const uint8_t* mac = expected && i < whole ? macs_.data() + i * direct::kMacBytes : nullptr;
      take(buffer_.data() + at, std::min(size, static_cast<size_t>(length) - at), from, now, mac);
    }
  }
  // More may wait, and the edge was seen.
  kick();
}

void DirectSocket::take(const uint8_t* data, size_t length, const sockaddr_in6& from, uint64_t now, const uint8_t* mac) {
  if (length > 0 && data[0] == direct::kMagic) {
    bool newest = false;
    // The other side may have got another address: it is where its latest authentic packet came from.
    if (connection_ && connection_->receive(data, length, now, newest, mac) && newest) remote_ = from;
    return;
  }
  if (length == 0 || length > direct::kSafePacketBytes || events_.datagrams.size() >= kDatagramsMax) return;
  events_.datagrams.push_back({{data, data + length}, textOf(from), ntohs(from.sin6_port)});
}

bool DirectSocket::sendAll(uint64_t now) {
  for (;;) {
    if (batchSent_ >= batch_.bytes.size()) {
      batchSent_ = 0;
      if (!connection_->transmit(now, batch_)) {
        batch_.bytes.clear();
        return true;
      }
    }
    if (!sendBatch(batch_)) return false;
  }
}

// Many packets in one call where the kernel cuts them up.
bool DirectSocket::sendBatch(const direct::Batch& batch) {
  while (batchSent_ < batch.bytes.size()) {
    const size_t left = batch.bytes.size() - batchSent_;
    const bool many = segments_ && left > batch.packetBytes;
    const size_t length = many ? left : std::min(left, batch.packetBytes);
    if (sendPart(batch, batchSent_, length, many)) {
      batchSent_ += length;
      continue;
    }
    const int error = errno;
    if (error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS) return false;
    if (error == EINTR) continue;
    if (many && (error == EIO || error == EINVAL || error == EOPNOTSUPP || error == EMSGSIZE)) {
      if (error == EMSGSIZE || (error == EINVAL && batch.packetBytes > direct::kSafePacketBytes)) {
        connection_->tooLarge(batch.packetBytes);
      } else {
        // No hardware or kernel for it: one by one from now on.
        segments_ = false;
        continue;
      }
    } else if (error == EMSGSIZE) {
      connection_->tooLarge(batch.packetBytes);
    }
    // Lost, as on a bad path: it is sent again when it is missed.
    batchSent_ += length;
  }
  return true;
}

bool DirectSocket::sendPart(const direct::Batch& batch, size_t at, size_t length, bool many) {
  const Target target = targetOf(remote_, ipv4Only_);
  iovec part{const_cast<uint8_t*>(batch.bytes.data() + at), length};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(uint16_t))] = {};
  msghdr message{};
  message.msg_name = const_cast<sockaddr_storage*>(&target.storage);
  message.msg_namelen = target.length;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (many) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_UDP;
    header->cmsg_type = UDP_SEGMENT;
    header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    const uint16_t size = static_cast<uint16_t>(batch.packetBytes);
    std::memcpy(CMSG_DATA(header), &size, sizeof size);
  }
  return sendmsg(socket_, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

void DirectSocket::collect() {
  if (!connection_) return;
  for (const unsigned stream : connection_->takeReadable()) events_.readable.push_back(stream);
  const bool closed = connection_->closed();
  for (unsigned stream = 0; stream < direct::kStreams; stream++) {
    if (!wantsWrite_[stream] || (!closed && connection_->unsent(stream) > kUnsentLow)) continue;
    wantsWrite_[stream] = false;
    events_.writable.push_back(stream);
  }
  if (closed && !closedTold_) {
    closedTold_ = true;
    events_.closed = true;
  }
}

}  // namespace memferry
