// The memory of another process, by its addresses.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "failure.h"
#include "nbd_socket.h"

namespace memferry {

class ProcessMemory {
 public:
  ProcessMemory() = default;
  // The failure says what is missing to be let in.
  static Failure open(pid_t pid, ProcessMemory& out);

  // 0 or an errno; ESRCH once the process is gone.
  int read(uint64_t address, uint8_t* into, size_t length) const;
  // What is mapped there: memory of the process alone, memory that others may share, the file that `fd` is, or more
  // than one of them.
  enum class Backing { own, shared, file, mixed };
  Backing backing(uint64_t address, uint64_t length, int fd) const;

 private:
  pid_t pid_ = 0;
  // Opened once: what is allowed at the beginning stays so.
  Descriptor file_;
};

}  // namespace memferry
