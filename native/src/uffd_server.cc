#include "uffd_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "thread_name.h"
#include "uffd_handshake.h"

namespace memferry {
namespace {

constexpr size_t kMaxClients = 64;
constexpr size_t kMaxLineBytes = 64;
constexpr size_t kMaxDrainBytes = 256 << 10;
constexpr timeval kPatience{10, 0};

Descriptor openProcess(pid_t pid) { return Descriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

bool isGone(int process) {
  pollfd watched{process, POLLIN, 0};
  return ::poll(&watched, 1, 0) > 0;
}

}  // namespace

struct UffdServer::Client {
  Descriptor socket;
  Descriptor process;
  // Readable when the client is to be let go.
  Descriptor wake{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  pid_t pid = 0;
  std::shared_ptr<UffdSpace> space;
  bool isPrivate = false;
  std::thread thread;
  std::atomic<bool> over{false};

  void letGo() const {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t put = ::write(wake.get(), &one, sizeof one);
  }
};

std::shared_ptr<UffdServer> UffdServer::listen(std::string path, Failure& failure) {
  std::shared_ptr<UffdServer> server(new UffdServer(std::move(path)));
  server->wake_ = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  failure = !server->wake_ ? Failure::system(errno, "eventfd") : server->listener_.listen(server->path_);
  if (failure) return nullptr;
  server->thread_ = std::thread([raw = server.get()] { raw->run(); });
  return server;
}

Failure UffdServer::add(std::shared_ptr<Region> region) {
  {
    const std::lock_guard lock(mutex_);
    if (leaving_) return Failure::named("ENOTCONN", "the server has stopped");
    if (region_) return Failure::named("EBUSY", "a userfaultfd socket serves one region: give each its own");
    region_ = std::move(region);
  }
  changed_.notify_all();
  return {};
}

void UffdServer::run() {
  becomeHelperThread("memferry-uffd-l");
  for (;;) {
    pollfd watched[2] = {{listener_.fd(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
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

void UffdServer::accept() {
  Descriptor socket = acceptOne(listener_.fd());
  if (!socket) return;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
  auto client = std::make_shared<Client>();
  client->socket = std::move(socket);
  const std::lock_guard lock(mutex_);
  if (leaving_ || clients_.size() >= kMaxClients || !client->wake) {
    refused_++;
    return;
  }
  clients_.push_back(client);
  client->thread = std::thread([this, client] {
    becomeHelperThread("memferry-uffd-c");
    serve(*client);
    client->over.store(true);
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t put = ::write(wake_.get(), &one, sizeof one);
  });
}

void UffdServer::serve(Client& client) {
  const std::string why = admit(client);
  if (why.empty()) {
    sendAll(client.socket.get(), "ok\n", 3);
    attend(client);
    std::shared_ptr<UffdSpace> space;
    {
      const std::lock_guard lock(mutex_);
      space = std::exchange(client.space, nullptr);
    }
    if (space) space->stop();
    return;
  }
  refused_++;
  const std::string line = "refused: " + why + "\n";
  sendAll(client.socket.get(), line.data(), line.size());
  // What was not read would take the answer with it.
  ::shutdown(client.socket.get(), SHUT_WR);
  uint8_t piece[4096];
  for (size_t left = kMaxDrainBytes; left > 0;) {
    const ssize_t got = receiveSome(client.socket.get(), piece, std::min(left, sizeof piece));
    if (got <= 0) break;
    left -= static_cast<size_t>(got);
  }
}

std::string UffdServer::admit(Client& client) {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(client.socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.pid <= 0) {
    return "the program's process cannot be seen from here: is it in another PID namespace?";
  }
  UffdHandshake handshake;
  if (std::string refusal = receiveHandshake(client.socket.get(), handshake); !refusal.empty()) return refusal;
  client.pid = peer.pid;
  client.process = openProcess(peer.pid);
  if (!client.process) return "the program's process cannot be watched";
  std::shared_ptr<Region> region;
  if (std::string refusal = waitForRegion(client, region); !refusal.empty()) return refusal;
  if (std::string refusal = checkMappings(handshake.mappings, region->bytes()); !refusal.empty()) return refusal;

  UffdSpace::Options options;
  options.region = region;
  options.fault = Userfault(std::move(handshake.fault));
  options.pid = peer.pid;
  if (const Failure failure = ProcessMemory::open(peer.pid, options.memory)) return failure.message;
  for (UffdMapping& mapping : handshake.mappings) {
    switch (options.memory.backing(mapping.address, mapping.length, region->descriptor())) {
      case ProcessMemory::Backing::own:
        client.isPrivate = true;
        break;
      case ProcessMemory::Backing::shared:
        client.isPrivate = mapping.outlivesMapping = true;
        break;
      case ProcessMemory::Backing::file:
        mapping.shared = mapping.outlivesMapping = true;
        break;
      case ProcessMemory::Backing::mixed:
        return "a mapping is not one piece of the program's memory";
    }
  }
  options.mappings = std::move(handshake.mappings);
  std::vector<std::shared_ptr<UffdSpace>> replaced;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& other : clients_) {
      if (!other->space || isGone(other->process.get())) continue;
      // The same program comes again: what it hands over is the same memory.
      if (other->pid == client.pid) {
        replaced.push_back(other->space);
        other->letGo();
      } else if (client.isPrivate || other->isPrivate) {
        return "process " + std::to_string(other->pid) + " has this region in its memory: one program at a time, or both map the region's file";
      }
    }
  }
  for (const auto& space : replaced) space->stop();
  Failure failure;
  std::shared_ptr<UffdSpace> space = UffdSpace::start(std::move(options), failure);
  if (!space) return failure.message;
  const std::lock_guard lock(mutex_);
  client.space = std::move(space);
  return {};
}

std::string UffdServer::waitForRegion(const Client& client, std::shared_ptr<Region>& out) {
  std::unique_lock lock(mutex_);
  while (!region_ && !leaving_) {
    if (isGone(client.process.get())) return "the program is gone";
    changed_.wait_for(lock, std::chrono::seconds(1));
  }
  if (leaving_) return "the server is stopping";
  out = region_;
  return {};
}

// Until the process is gone, or we let go of it.
void UffdServer::attend(Client& client) {
  std::string line;
  bool connected = true;
  for (;;) {
    pollfd watched[3] = {{client.process.get(), POLLIN, 0},
                         {client.wake.get(), POLLIN, 0},
                         {connected ? client.socket.get() : -1, POLLIN, 0}};
    if (::poll(watched, 3, -1) < 0) continue;
    if (watched[0].revents || watched[1].revents) return;
    if (!watched[2].revents) continue;
    uint8_t piece[kMaxLineBytes];
    const ssize_t got = receiveSome(client.socket.get(), piece, sizeof piece);
    if (got > 0) line.append(reinterpret_cast<const char*>(piece), static_cast<size_t>(got));
    connected = got > 0 && line.size() <= kMaxLineBytes;
    for (size_t end; connected && (end = line.find('\n')) != std::string::npos;) {
      const bool known = line.compare(0, end, "flush") == 0;
      line.erase(0, end + 1);
      const int error = known ? client.space->flush() : EINVAL;
      const std::string answer = error ? "error " + errnoName(error) + "\n" : "ok\n";
      connected = sendAll(client.socket.get(), answer.data(), answer.size());
    }
    if (!connected) ::shutdown(client.socket.get(), SHUT_RDWR);
  }
}

Failure UffdServer::flush() {
  std::vector<std::shared_ptr<Client>> clients;
  {
    const std::lock_guard lock(mutex_);
    clients = clients_;
  }
  for (const auto& client : clients) {
    std::shared_ptr<UffdSpace> space;
    {
      const std::lock_guard lock(mutex_);
      space = client->space;
    }
    if (!space) continue;
    const int error = space->flush();
    // Of a process that is gone there is nothing to bring.
    if (error && !isGone(client->process.get())) {
      return Failure::system(error, "process_vm_readv", path_);
    }
  }
  return {};
}

size_t UffdServer::clients() const {
  const std::lock_guard lock(mutex_);
  return static_cast<size_t>(std::count_if(clients_.begin(), clients_.end(), [](const auto& client) {
    return client->space && !client->over.load();
  }));
}

void UffdServer::reap() {
  std::vector<std::shared_ptr<Client>> gone;
  {
    const std::lock_guard lock(mutex_);
    const auto first = std::partition(clients_.begin(), clients_.end(),
                                      [](const auto& client) { return !client->over.load(); });
    std::move(first, clients_.end(), std::back_inserter(gone));
    clients_.erase(first, clients_.end());
  }
  for (const auto& client : gone) client->thread.join();
}

void UffdServer::stop() {
  const std::lock_guard stopLock(stopMutex_);
  if (std::exchange(stopped_, true)) return;
  flush();  // best effort: what a gate holds back stays where it is
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
    for (const auto& client : clients_) {
      client->letGo();
      ::shutdown(client->socket.get(), SHUT_RD);
    }
  }
  changed_.notify_all();
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(wake_.get(), &one, sizeof one);
  if (thread_.joinable()) thread_.join();
  std::vector<std::shared_ptr<Client>> clients;
  {
    const std::lock_guard lock(mutex_);
    clients.swap(clients_);
  }
  for (const auto& client : clients) {
    if (client->thread.joinable()) client->thread.join();
  }
  listener_.remove();
  // The region may be closed now.
  const std::lock_guard lock(mutex_);
  region_.reset();
}

}  // namespace memferry
