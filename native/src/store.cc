#include "store.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

namespace memferry {
namespace {

// One write's worth of zeros, where a file system can neither punch nor zero a range.
constexpr size_t kZeroBlockBytes = 1 << 20;

template <typename Call>
auto retryOnEintr(Call call) {
  decltype(call()) result;
  do {
    result = call();
  } while (result == -1 && errno == EINTR);
  return result;
}

constexpr std::array<uint32_t, 5> kHolesTell = {EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC,
                                                F2FS_SUPER_MAGIC, TMPFS_MAGIC};

bool unsupported(int error) { return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL; }

}  // namespace

std::shared_ptr<Store> Store::open(const StoreOptions& options, uint64_t bytes, Failure& failure) {
  std::shared_ptr<Store> store(new Store(options, bytes));
  failure = options.memory             ? store->openMemory()
            : options.descriptor >= 0 ? store->openDescriptor()
                                      : store->openFile();
  if (!failure) store->learnFileSystem();
  return failure ? nullptr : store;
}

Store::~Store() {
  if (mapping_) ::munmap(mapping_, bytes_);
  // Closing gives the flock up.
  if (fd_ >= 0) ::close(fd_);
}

Failure Store::openMemory() {
  fd_ = ::memfd_create("memferry", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd_ < 0) return Failure::system(errno, "memfd_create");
  if (::ftruncate(fd_, static_cast<off_t>(bytes_)) != 0) return Failure::system(errno, "ftruncate");
  // Nobody who is handed this descriptor later can change the size under our chunk arithmetic.
  if (::fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return Failure::system(errno, "fcntl");
  }
  fresh_ = true;
  map();
  return {};
}

// Best effort: where address space is short, system calls do the same.
void Store::map() {
  void* const at = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd_, 0);
  if (at == MAP_FAILED) return;
  mapping_ = static_cast<uint8_t*>(at);
  // A core dump or a child has no business with somebody's memory.
  ::madvise(at, bytes_, MADV_DONTDUMP);
  ::madvise(at, bytes_, MADV_DONTFORK);
  // Where the host's policy for shared memory is to be asked.
  ::madvise(at, bytes_, MADV_HUGEPAGE);
}

// A page that was written and is not on disk yet counts as data with these. What others say is not taken for more
// than it costs to read: a network's or a user's file system may answer for another state than it serves.
void Store::learnFileSystem() {
  struct statfs info;
  if (::fstatfs(fd_, &info) != 0) return;
  const auto type = static_cast<uint32_t>(info.f_type);
  holesTell_ = std::find(kHolesTell.begin(), kHolesTell.end(), type) != kHolesTell.end();
}

Failure Store::openDescriptor() {
  fd_ = ::fcntl(options_.descriptor, F_DUPFD_CLOEXEC, 3);
  if (fd_ < 0) return Failure::system(errno, "fcntl");
  struct stat info;
  if (::fstat(fd_, &info) != 0) return Failure::system(errno, "fstat");
  if (!S_ISREG(info.st_mode) || static_cast<uint64_t>(info.st_size) != bytes_) {
    return Failure::named("ESIZE", "the descriptor that was handed over is of another region");
  }
  // What it was opened with is not told; what it is shows: ours in memory is sealed, and blocks that are all there
  // are not to be given back by a hole.
  const int seals = ::fcntl(fd_, F_GET_SEALS);
  options_.memory = seals >= 0 && (seals & F_SEAL_SHRINK);
  options_.reserve = !options_.memory && static_cast<uint64_t>(info.st_blocks) * 512 >= bytes_;
  options_.readOnly = (::fcntl(fd_, F_GETFL) & O_ACCMODE) == O_RDONLY;
  if (options_.memory && !options_.readOnly) map();
  return {};
}

Failure Store::openFile() {
  const std::string& path = options_.path;
  const int access = (options_.readOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK;
  // O_EXCL tells "made by us" from "was there" in one step; whoever loses the race opens the winner's
  // file and meets its lock. 0600: this is somebody's memory.
  if (options_.create && !options_.readOnly) {
    fd_ = retryOnEintr([&] { return ::open(path.c_str(), access | O_CREAT | O_EXCL, 0600); });
    fresh_ = fd_ >= 0;
    if (fd_ < 0 && errno != EEXIST) return Failure::system(errno, "open", path);
  }
  if (fd_ < 0) {
    fd_ = retryOnEintr([&] { return ::open(path.c_str(), access); });
    if (fd_ < 0) return Failure::system(errno, "open", path);
  }
  Failure failure = prepareFile();
  if (failure && fresh_) ::unlink(path.c_str());  // best effort: the failure itself is what counts
  return failure;
}

Failure Store::prepareFile() {
  const std::string& path = options_.path;
  // Readers share, a writer is alone.
  const int lock = (options_.readOnly ? LOCK_SH : LOCK_EX) | LOCK_NB;
  if (retryOnEintr([&] { return ::flock(fd_, lock); }) != 0) {
    if (errno == EWOULDBLOCK) {
      fresh_ = false;  // whoever holds the lock owns the file now: not ours to remove
      Failure busy = Failure::named(
          "EBUSY", "'" + path + "' is in use by another process or another region", path);
      busy.syscall = "flock";
      return busy;
    }
    return Failure::system(errno, "flock", path);
  }
  struct stat info;
  if (::fstat(fd_, &info) != 0) return Failure::system(errno, "fstat", path);
  if (!S_ISREG(info.st_mode)) {
    return Failure::named("EINVAL", "'" + path + "' is not a regular file", path);
  }
  if (!fresh_ && static_cast<uint64_t>(info.st_size) != bytes_) {
    return Failure::named("ESIZE",
                          "'" + path + "' has " + std::to_string(info.st_size) +
                              " bytes, the region has " + std::to_string(bytes_),
                          path);
  }
  if (options_.reserve && !options_.readOnly) {
    // fallocate(2) and not posix_fallocate(3): where the file system cannot reserve, libc would
    // write a byte into every block instead, which is slow and reserves nothing on copy-on-write.
    const int result = retryOnEintr([&] { return ::fallocate(fd_, 0, 0, static_cast<off_t>(bytes_)); });
    if (result != 0 && !unsupported(errno)) return Failure::system(errno, "fallocate", path);
  }
  if (!fresh_) return {};
  if (::ftruncate(fd_, static_cast<off_t>(bytes_)) != 0) return Failure::system(errno, "ftruncate", path);
  // What a sync() makes durable must be found by its name.
  const int error = syncDirectoryOf(path);
  return error ? Failure::system(error, "fsync", path) : Failure{};
}

int Store::read(uint8_t* into, size_t length, uint64_t offset) const {
  while (length > 0) {
    const ssize_t got = ::pread(fd_, into, length, static_cast<off_t>(offset));
    if (got < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (got == 0) return EIO;  // the file ended early
    into += got;
    length -= static_cast<size_t>(got);
    offset += static_cast<uint64_t>(got);
  }
  return 0;
}

int Store::write(const uint8_t* from, size_t length, uint64_t offset) {
  if (options_.readOnly) return EROFS;
  // Writing past the end of a file that somebody truncated would make it whole again, with zeros in
  // the gap that reads would then deliver as data.
  if (shrunk()) return EIO;
  while (length > 0) {
    const ssize_t put = ::pwrite(fd_, from, length, static_cast<off_t>(offset));
    if (put < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    from += put;
    length -= static_cast<size_t>(put);
    offset += static_cast<uint64_t>(put);
  }
  return 0;
}

int Store::zero(uint64_t offset, uint64_t length, Zeroing how) {
  if (options_.readOnly) return EROFS;
  if (shrunk()) return EIO;
  const bool keep = options_.reserve || how.keepBlocks;
  // A hole would give reserved blocks back, and a later write could then meet a full disk.
  const int mode = (keep ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE) | FALLOC_FL_KEEP_SIZE;
  const int result = retryOnEintr([&] {
    return ::fallocate(fd_, mode, static_cast<off_t>(offset), static_cast<off_t>(length));
  });
  if (result == 0) return 0;
  if (!unsupported(errno)) return errno;
  return how.fast ? ENOTSUP : writeZeros(offset, length);
}

bool Store::holeAt(uint64_t offset, uint64_t& until) const {
  // The descriptor's own position moves; nobody uses it.
  const off_t data = ::lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0 && errno != ENXIO) {
    until = bytes_;  // cannot tell: data
    return false;
  }
  if (data < 0 || static_cast<uint64_t>(data) > offset) {
    until = data < 0 ? bytes_ : static_cast<uint64_t>(data);
    return true;
  }
  const off_t hole = ::lseek(fd_, data, SEEK_HOLE);
  until = hole > data ? static_cast<uint64_t>(hole) : bytes_;
  return false;
}

bool Store::isHole(uint64_t offset, uint64_t length) const {
  if (!holesTell_) return false;
  const off_t data = ::lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
  if (data >= 0) return static_cast<uint64_t>(data) >= offset + length;
  // No data from here to the end; or past the end of a file that was truncated, which reading tells.
  return errno == ENXIO && !shrunk();
}

int Store::writeZeros(uint64_t offset, uint64_t length) {
  const std::vector<uint8_t> zeros(std::min<uint64_t>(length, kZeroBlockBytes));
  while (length > 0) {
    const size_t step = std::min<uint64_t>(length, zeros.size());
    const int error = write(zeros.data(), step, offset);
    if (error) return error;
    offset += step;
    length -= step;
  }
  return 0;
}

int Store::sync() {
  if (retryOnEintr([&] { return ::fdatasync(fd_); }) != 0) syncError_.store(errno);
  return syncError_.load();
}

int syncDirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  // Some file systems cannot, and have no need to.
  return unsupported(error) ? 0 : error;
}

bool Store::shrunk() const {
  if (options_.memory) return false;  // sealed
  struct stat info;
  return ::fstat(fd_, &info) == 0 && static_cast<uint64_t>(info.st_size) < bytes_;
}

Failure Store::explain(int error, const char* syscall) const {
  Failure failure = Failure::system(error, syscall, options_.path);
  if (error == EIO && shrunk()) failure.message += ": the file was truncated";
  return failure;
}

}  // namespace memferry
