// Which pages of a process were written since they were last asked for: PAGEMAP_SCAN, since Linux 6.7.
#pragma once

#include <cstdint>
#include <functional>

#include "nbd_socket.h"

namespace memferry {

class PageScan {
 public:
  PageScan() = default;
  explicit PageScan(int pid);

  explicit operator bool() const { return static_cast<bool>(fd_); }
  // Whether writes to this range are noted by the kernel itself.
  bool works(uint64_t address, uint64_t length) const;
  // Tells of each run of written pages and protects it in the same step, so that a write is told of now or the next
  // time. A page that was never touched nor protected counts as written, unless `onlyThere`: that must not be asked of
  // memory that outlives its mapping, where a written page may have been taken out of it. 0 or an errno.
  int take(uint64_t address, uint64_t length, bool onlyThere,
           const std::function<void(uint64_t start, uint64_t end)>& found) const;

 private:
  Descriptor fd_;
};

}  // namespace memferry
