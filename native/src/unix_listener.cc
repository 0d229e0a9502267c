#include "unix_listener.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace memferry {
namespace {

constexpr int kBacklog = 64;

bool unixAddress(const std::string& path, sockaddr_un& out) {
  out = {};
  out.sun_family = AF_UNIX;
  if (path.size() >= sizeof out.sun_path) return false;
  std::memcpy(out.sun_path, path.data(), path.size());
  return true;
}

// A socket's file stays when its server is killed; nobody answers there then.
bool isAbandoned(const sockaddr_un& address) {
  struct stat info;
  if (::lstat(address.sun_path, &info) != 0 || !S_ISSOCK(info.st_mode)) return false;
  const Descriptor probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return false;
  return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
         errno == ECONNREFUSED;
}

}  // namespace

Failure UnixListener::listen(const std::string& path) {
  sockaddr_un address;
  if (!unixAddress(path, address)) {
    return Failure::named("ENAMETOOLONG", "a Unix socket's path has at most 107 bytes: " + path, path);
  }
  Descriptor made(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!made) return Failure::system(errno, "socket");
  if (isAbandoned(address)) ::unlink(path.c_str());
  if (::bind(made.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Failure::system(errno, "bind", path);
  }
  // Before anybody can connect: this is somebody's memory.
  struct stat info;
  if (::chmod(path.c_str(), 0600) != 0 || ::lstat(path.c_str(), &info) != 0) {
    return Failure::system(errno, "chmod", path);
  }
  path_ = path;
  device_ = info.st_dev;
  inode_ = info.st_ino;
  if (::listen(made.get(), kBacklog) != 0) return Failure::system(errno, "listen", path);
  socket_ = std::move(made);
  return {};
}

void UnixListener::remove() {
  socket_.reset();
  struct stat info;
  if (inode_ != 0 && ::lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
  inode_ = 0;
}

}  // namespace memferry
