#include "nbd_server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "thread_name.h"

namespace memferry {
namespace {

constexpr int kBacklog = 64;
// A Unix socket carries at once what its sender's buffer takes; the default is a fifth of this.
constexpr int kSocketBufferBytes = 1 << 20;

void raiseSendBuffer(int fd) {
  const int bytes = kSocketBufferBytes;
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) == 0) return;
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

}  // namespace

std::shared_ptr<NbdServer> NbdServer::listen(Options options, Failure& failure) {
  std::shared_ptr<NbdServer> server(new NbdServer(std::move(options)));
  server->wake_ = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  failure = !server->wake_                     ? Failure::system(errno, "eventfd")
            : server->options_.path.empty() ? server->bindTcp()
                                               : server->unix_.listen(server->options_.path);
  if (failure) return nullptr;
  if (!server->listener_) server->listener_ = server->unix_.release();
  server->thread_ = std::thread([raw = server.get()] { raw->run(); });
  return server;
}

Failure NbdServer::bindTcp() {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string where = options_.host + ":" + std::to_string(options_.port);
  const int status =
      ::getaddrinfo(options_.host.c_str(), std::to_string(options_.port).c_str(), &hints, &found);
  if (status != 0) return Failure::named("ENOTFOUND", where + ": " + ::gai_strerror(status));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> freeing(found, ::freeaddrinfo);
  Descriptor made(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!made) return Failure::system(errno, "socket");
  const int on = 1;
  ::setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(made.get(), found->ai_addr, found->ai_addrlen) != 0) return Failure::system(errno, "bind", where);
  if (::listen(made.get(), kBacklog) != 0) return Failure::system(errno, "listen", where);
  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  ::getsockname(made.get(), reinterpret_cast<sockaddr*>(&bound), &length);
  // At the same place in both families.
  options_.port = ntohs(reinterpret_cast<const sockaddr_in*>(&bound)->sin_port);
  listener_ = std::move(made);
  return {};
}

void NbdServer::run() {
  becomeHelperThread("memferry-nbd-li");
  for (;;) {
    pollfd watched[2] = {{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(watched, 2, -1) < 0) continue;
    if (watched[1].revents) {
      uint64_t count;
      [[maybe_unused]] const ssize_t got = ::read(wake_.get(), &count, sizeof count);
      reap();
      const std::lock_guard lock(mutex_);
      if (leaving_) return;
    }
    if (watched[0].revents) accept();
  }
}

void NbdServer::accept() {
  Descriptor socket = acceptOne(listener_.get());
  if (!socket) return;
  const int on = 1;
  if (options_.path.empty()) {
    ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::setsockopt(socket.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  } else {
    raiseSendBuffer(socket.get());
  }
  const auto startTls = [onTls = options_.onTls](Descriptor& connected) {
    int ends[2];
    if (!onTls || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return false;
    Descriptor inner(ends[0]), outer(ends[1]);
    onTls(std::move(connected), std::move(outer));
    connected = std::move(inner);
    return true;
  };
  const std::lock_guard lock(mutex_);
  if (leaving_ || clients_.size() >= options_.maxConnections) return;
  auto over = std::make_shared<std::atomic<bool>>(false);
  auto connection = std::make_unique<NbdConnection>(exports_, options_.tls, startTls, std::move(socket));
  NbdConnection* const started = connection.get();
  clients_.push_back({std::move(connection), over});
  started->start([this, over] {
    over->store(true);
    wake();
  });
}

void NbdServer::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(wake_.get(), &one, sizeof one);
}

void NbdServer::reap() {
  std::vector<Client> gone;
  {
    const std::lock_guard lock(mutex_);
    const auto first = std::partition(clients_.begin(), clients_.end(),
                                      [](const Client& client) { return !client.over->load(); });
    std::move(first, clients_.end(), std::back_inserter(gone));
    clients_.erase(first, clients_.end());
  }
  // Joined here, without the mutex.
}

size_t NbdServer::connections() const {
  const std::lock_guard lock(mutex_);
  return clients_.size();
}

void NbdServer::stop() {
  const std::lock_guard stopLock(stopMutex_);
  if (std::exchange(stopped_, true)) return;
  std::vector<Client> clients;
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
    clients.swap(clients_);
  }
  if (thread_.joinable()) {
    wake();
    thread_.join();
  }
  for (const Client& client : clients) client.connection->cut();
  clients.clear();
  listener_.reset();
  unix_.remove();
  // Regions may be closed now.
  exports_.clear();
}

}  // namespace memferry
