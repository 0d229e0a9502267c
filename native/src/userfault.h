// A userfaultfd: of this process, or of another that handed its own over. Every call acts on the memory of the process
// that made the descriptor.
//
// Any thread may call anything. The descriptor closes with the object.
#pragma once

#include <linux/userfaultfd.h>

#include <cstddef>
#include <cstdint>

#include "failure.h"
#include "nbd_socket.h"

namespace memferry {

class Userfault {
 public:
  Userfault() = default;
  explicit Userfault(Descriptor fd) : fd_(std::move(fd)) {}
  // One of our own memory, with those of `wanted` that the kernel has.
  static Failure open(uint64_t wanted, Userfault& out);
  // What the kernel has to offer, by asking; the failure says what to do where there is nothing.
  static Failure probe(uint64_t& features);

  int fd() const { return fd_.get(); }
  uint64_t features() const { return features_; }

  // 0 or an errno. `mode`: UFFDIO_REGISTER_MODE_*.
  int watch(uint64_t address, uint64_t length, uint64_t mode) const;
  int protect(uint64_t address, uint64_t length, bool on) const;
  int wake(uint64_t address, uint64_t length) const;
  // Whoever touches it gets SIGBUS.
  int poison(uint64_t address, uint64_t length) const;

  // Fill pages that are missing, protect them against writes that nobody notices, and wake who waits. `done`: the bytes
  // that were. An errno says what stands at `address + done`: EEXIST a page that is there; EAGAIN the memory is
  // being changed and its events are to be read first; ENOENT, EFAULT, ESRCH nothing of ours any more.
  int copy(uint64_t address, const uint8_t* from, uint64_t length, uint64_t& done) const;
  int zero(uint64_t address, uint64_t length, uint64_t& done) const;
  // Of memory that has the page already, but not at this address. EFAULT: it has not.
  int map(uint64_t address, uint64_t length, uint64_t& done) const;

  // Messages that are there now, at most `room`; 0 if there is none, -1 at the end.
  int read(uffd_msg* into, size_t room) const;

 private:
  Descriptor fd_;
  uint64_t features_ = 0;
};

}  // namespace memferry
