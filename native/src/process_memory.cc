#include "process_memory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>

namespace memferry {

Failure ProcessMemory::open(pid_t pid, ProcessMemory& out) {
  const std::string path = "/proc/" + std::to_string(pid) + "/mem";
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) {
    Failure failure = Failure::system(errno, "open", path);
    if (errno == EACCES || errno == EPERM) {
      failure.message += ": run memferry as root, or as the same user with kernel.yama.ptrace_scope=0";
    }
    return failure;
  }
  out.pid_ = pid;
  out.file_ = std::move(file);
  return {};
}

int ProcessMemory::read(uint64_t address, uint8_t* into, size_t length) const {
  while (length > 0) {
    iovec local{into, length};
    iovec remote{reinterpret_cast<void*>(address), length};
    ssize_t got = ::process_vm_readv(pid_, &local, 1, &remote, 1, 0);
    if (got < 0 && (errno == EPERM || errno == ENOSYS)) {
      got = ::pread(file_.get(), into, length, static_cast<off_t>(address));
    }
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) return ESRCH;  // its memory is gone
    into += got;
    address += static_cast<uint64_t>(got);
    length -= static_cast<size_t>(got);
  }
  return 0;
}

ProcessMemory::Backing ProcessMemory::backing(uint64_t address, uint64_t length, int fd) const {
  struct stat file;
  if (::fstat(fd, &file) != 0) return Backing::mixed;
  std::ifstream maps("/proc/" + std::to_string(pid_) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    uint64_t start = 0, end = 0, offset = 0, inode = 0;
    unsigned major_ = 0, minor_ = 0;
    char rights[5] = {};
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &start, &end, rights,
                    &offset, &major_, &minor_, &inode) != 7) {
      continue;
    }
    if (address < start || address >= end) continue;
    if (address + length > end) return Backing::mixed;
    if (rights[3] != 's') return Backing::own;
    const bool same = inode == file.st_ino && makedev(major_, minor_) == file.st_dev;
    return same ? Backing::file : Backing::shared;
  }
  return Backing::mixed;
}

}  // namespace memferry
