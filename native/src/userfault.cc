#include "userfault.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "uffd_wire.h"

namespace memferry {
namespace {

constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;

int openDevice() {
  const Descriptor device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  return device ? ::ioctl(device.get(), uffd::kDeviceNew, kFlags) : -1;
}

// With the right to wait in system calls too, if it can be had.
int openAny() {
  int fd = static_cast<int>(::syscall(SYS_userfaultfd, kFlags));
  if (fd >= 0 || errno == ENOSYS) return fd;
  fd = openDevice();
  return fd >= 0 ? fd : static_cast<int>(::syscall(SYS_userfaultfd, kFlags | uffd::kUserModeOnly));
}

Failure negotiate(int fd, uint64_t wanted, uint64_t& has) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = wanted;
  if (::ioctl(fd, UFFDIO_API, &api) != 0) return Failure::system(errno, "ioctl");
  has = api.features;
  return {};
}

Failure openDescriptor(Descriptor& out) {
  out = Descriptor(openAny());
  if (out) return {};
  if (errno == ENOSYS) {
    return Failure::named("ENOSYS", "this kernel has no userfaultfd: export the region by FUSE or NBD instead");
  }
  Failure failure = Failure::system(errno, "userfaultfd");
  if (errno == EPERM || errno == EACCES) {
    failure.message += ": run sudo sysctl vm.unprivileged_userfaultfd=1, or give this user /dev/userfaultfd";
  }
  return failure;
}

uffdio_range rangeOf(uint64_t address, uint64_t length) { return {.start = address, .len = length}; }

int call(int fd, unsigned long request, void* argument) {
  int result;
  do {
    result = ::ioctl(fd, request, argument);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

// What a filling call answers: 0, or how far it came and why no further.
int filled(int error, int64_t answer, uint64_t length, uint64_t& done) {
  done = answer > 0 ? static_cast<uint64_t>(answer) : 0;
  if (error == 0) return done == length ? 0 : EAGAIN;
  // A part was done: the rest is asked again, and then says why.
  return answer < 0 ? static_cast<int>(-answer) : error;
}

}  // namespace

Failure Userfault::probe(uint64_t& features) {
  Descriptor fd;
  if (Failure failure = openDescriptor(fd)) return failure;
  return negotiate(fd.get(), 0, features);
}

Failure Userfault::open(uint64_t wanted, Userfault& out) {
  uint64_t features = 0;
  if (Failure failure = probe(features)) return failure;
  Descriptor fd;
  if (Failure failure = openDescriptor(fd)) return failure;
  uint64_t all = 0;
  // Once for each descriptor, so the asking needs one of its own.
  if (Failure failure = negotiate(fd.get(), wanted & features, all)) return failure;
  out.fd_ = std::move(fd);
  out.features_ = wanted & features;
  return {};
}

int Userfault::watch(uint64_t address, uint64_t length, uint64_t mode) const {
  uffdio_register arguments{};
  arguments.range = rangeOf(address, length);
  arguments.mode = mode;
  return call(fd_.get(), UFFDIO_REGISTER, &arguments);
}

int Userfault::protect(uint64_t address, uint64_t length, bool on) const {
  uffdio_writeprotect arguments{};
  arguments.range = rangeOf(address, length);
  arguments.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
  return call(fd_.get(), UFFDIO_WRITEPROTECT, &arguments);
}

int Userfault::wake(uint64_t address, uint64_t length) const {
  uffdio_range range = rangeOf(address, length);
  return call(fd_.get(), UFFDIO_WAKE, &range);
}

int Userfault::poison(uint64_t address, uint64_t length) const {
  uffd::Poison arguments{};
  arguments.range = rangeOf(address, length);
  return call(fd_.get(), uffd::kPoison, &arguments);
}

int Userfault::copy(uint64_t address, const uint8_t* from, uint64_t length, uint64_t& done) const {
  uffdio_copy arguments{};
  arguments.dst = address;
  arguments.src = reinterpret_cast<uint64_t>(from);
  arguments.len = length;
  arguments.mode = UFFDIO_COPY_MODE_WP;
  const int error = call(fd_.get(), UFFDIO_COPY, &arguments);
  return filled(error, arguments.copy, length, done);
}

// A page of zeros cannot be put there protected, so whoever waits is woken only after it is.
int Userfault::zero(uint64_t address, uint64_t length, uint64_t& done) const {
  uffdio_zeropage arguments{};
  arguments.range = rangeOf(address, length);
  arguments.mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE;
  int error = call(fd_.get(), UFFDIO_ZEROPAGE, &arguments);
  error = filled(error, arguments.zeropage, length, done);
  if (done > 0) {
    const int refused = protect(address, done, true);
    if (!error) error = refused;
    wake(address, done);
  }
  return error;
}

int Userfault::map(uint64_t address, uint64_t length, uint64_t& done) const {
  uffdio_continue arguments{};
  arguments.range = rangeOf(address, length);
  arguments.mode = uffd::kContinueWp;
  int error = call(fd_.get(), UFFDIO_CONTINUE, &arguments);
  if (error == EINVAL) {
    // Before 6.4: then what is read counts as written.
    arguments.mode = 0;
    error = call(fd_.get(), UFFDIO_CONTINUE, &arguments);
  }
  return filled(error, arguments.mapped, length, done);
}

int Userfault::read(uffd_msg* into, size_t room) const {
  for (;;) {
    const ssize_t got = ::read(fd_.get(), into, room * sizeof *into);
    if (got > 0) return static_cast<int>(static_cast<size_t>(got) / sizeof *into);
    if (got < 0 && errno == EINTR) continue;
    return got < 0 && errno == EAGAIN ? 0 : -1;
  }
}

}  // namespace memferry
