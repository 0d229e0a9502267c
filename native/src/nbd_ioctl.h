// The kernel's NBD client, told by ioctl what to connect to: for kernels whose client does not speak netlink.
//
// The kernel wants a thread that stays in a call for as long as the device lives. It keeps nobody waiting for a successor:
// when this process dies, who waits for the device gets an I/O error.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "failure.h"
#include "nbd_netlink.h"

namespace memferry {

class NbdIoctl {
 public:
  ~NbdIoctl() { join(); }
  // Sets the index. The kernel takes copies of the sockets.
  Failure connect(NbdNetlink::Device& device);
  // The connections must go on until the device has let them go.
  Failure disconnect();
  // Once the connections have ended.
  void join();

 private:
  void run(NbdNetlink::Device device);
  static Failure takeSocket(int fd, int socket);
  Failure setUp(int fd, const NbdNetlink::Device& device);
  void tell(int index, Failure failure);

  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable told_;
  bool isTold_ = false;
  int index_ = -1;
  Failure failure_;
};

}  // namespace memferry
