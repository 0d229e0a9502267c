#include "nbd_ioctl.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/nbd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nbd_socket.h"
#include "thread_name.h"

namespace memferry {
namespace {

constexpr std::chrono::milliseconds kStartStep{5};
constexpr int kStartSteps = 1000;

std::string pathOf(int index) { return "/dev/nbd" + std::to_string(index); }

bool isRunning(int index) {
  return ::access(("/sys/block/nbd" + std::to_string(index) + "/pid").c_str(), F_OK) == 0;
}

// It says whose it is before it says how large.
bool isReady(int index) {
  std::ifstream size("/sys/block/nbd" + std::to_string(index) + "/size");
  uint64_t sectors = 0;
  return isRunning(index) && size >> sectors && sectors > 0;
}

std::vector<int> devices() {
  std::vector<int> found;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/sys/block"), ::closedir);
  while (const dirent* entry = folder ? ::readdir(folder.get()) : nullptr) {
    int index, used = 0;
    if (std::sscanf(entry->d_name, "nbd%d%n", &index, &used) == 1 && entry->d_name[used] == '\0') found.push_back(index);
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

Failure NbdIoctl::connect(NbdNetlink::Device& device) {
  thread_ = std::thread([this, device] { run(device); });
  std::unique_lock lock(mutex_);
  told_.wait(lock, [&] { return isTold_; });
  if (failure_) return failure_;
  device.index = index_;
  lock.unlock();
  // The thread is in the kernel by now or about to be.
  for (int step = 0; step < kStartSteps && !isReady(device.index); step++) std::this_thread::sleep_for(kStartStep);
  return isReady(device.index) ? Failure{} : Failure::named("EIO", pathOf(device.index) + " did not start");
}

// All of it on one thread: the kernel lets only who began to set a device up go on with that.
void NbdIoctl::run(NbdNetlink::Device device) {
  becomeHelperThread("memferry-nbd-io");
  // Also the profiler's: a signal would end the call that the device lives in.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  const std::vector<int> candidates = device.index >= 0 ? std::vector<int>{device.index} : devices();
  Failure failure = Failure::system(EBUSY, "NBD_SET_SOCK");
  for (const int index : candidates) {
    if (isRunning(index)) continue;
    const Descriptor fd(::open(pathOf(index).c_str(), O_RDWR | O_CLOEXEC));
    if (!fd) {
      failure = Failure::system(errno, "open", pathOf(index));
      continue;
    }
    failure = takeSocket(fd.get(), device.sockets.front());
    // Somebody was faster; EINVAL if it was by netlink. What is theirs must not be cleared.
    if (failure.error == EBUSY || failure.error == EINVAL) continue;
    if (!failure) {
      failure = setUp(fd.get(), device);
      if (failure) ::ioctl(fd.get(), NBD_CLEAR_SOCK);
    }
    tell(index, failure);
    if (failure) return;
    // Until it is let go, or all of its connections have ended.
    ::ioctl(fd.get(), NBD_DO_IT);
    ::ioctl(fd.get(), NBD_CLEAR_QUE);
    ::ioctl(fd.get(), NBD_CLEAR_SOCK);
    return;
  }
  tell(-1, failure);
}

Failure NbdIoctl::takeSocket(int fd, int socket) {
  return ::ioctl(fd, NBD_SET_SOCK, socket) == 0 ? Failure{} : Failure::system(errno, "NBD_SET_SOCK");
}

Failure NbdIoctl::setUp(int fd, const NbdNetlink::Device& device) {
  for (size_t i = 1; i < device.sockets.size(); i++) {
    if (Failure failure = takeSocket(fd, device.sockets[i])) return failure;
  }
  if (::ioctl(fd, NBD_SET_BLKSIZE, static_cast<unsigned long>(device.blockBytes)) != 0) {
    return Failure::system(errno, "NBD_SET_BLKSIZE");
  }
  if (::ioctl(fd, NBD_SET_SIZE_BLOCKS, static_cast<unsigned long>(device.bytes / device.blockBytes)) != 0) {
    return Failure::system(errno, "NBD_SET_SIZE_BLOCKS");
  }
  if (::ioctl(fd, NBD_SET_FLAGS, static_cast<unsigned long>(device.flags)) != 0) {
    return Failure::system(errno, "NBD_SET_FLAGS");
  }
  // None: the kernel would fail what waits for a chunk, and nobody could give it another connection.
  if (::ioctl(fd, NBD_SET_TIMEOUT, 0ul) != 0) return Failure::system(errno, "NBD_SET_TIMEOUT");
  return {};
}

void NbdIoctl::tell(int index, Failure failure) {
  {
    const std::lock_guard lock(mutex_);
    index_ = index;
    failure_ = std::move(failure);
    isTold_ = true;
  }
  told_.notify_all();
}

Failure NbdIoctl::disconnect() {
  const Descriptor fd(::open(pathOf(index_).c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return Failure::system(errno, "open", pathOf(index_));
  if (::ioctl(fd.get(), NBD_DISCONNECT) != 0 && errno != EINVAL) return Failure::system(errno, "NBD_DISCONNECT");
  return {};
}

void NbdIoctl::join() {
  if (thread_.joinable()) thread_.join();
}

}  // namespace memferry
