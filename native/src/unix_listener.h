// A Unix socket to listen on: mode 0600, an abandoned one in its place is replaced, and only our own is removed.
#pragma once

#include <sys/types.h>

#include <string>

#include "failure.h"
#include "nbd_socket.h"

namespace memferry {

class UnixListener {
 public:
  Failure listen(const std::string& path);
  int fd() const { return socket_.get(); }
  Descriptor release() { return std::move(socket_); }
  // Removes the socket's file, if it is still ours.
  void remove();

 private:
  std::string path_;
  Descriptor socket_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace memferry
