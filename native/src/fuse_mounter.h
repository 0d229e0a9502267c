// Mounting and unmounting: everything about FUSE that is not the protocol.
//
// As root by mount(2); otherwise through the setuid helper fusermount3 (or fusermount), which mounts
// for us and hands the descriptor over a socket.
//
// Any thread, one at a time. Touches the mount point by system calls that our own server may have to
// answer, so never call it from a thread that serves requests.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "failure.h"

namespace memferry {

struct FuseProbe {
  bool available = false;
  std::string reason;
  std::string remedy;
};

FuseProbe probeFuse();

class FuseMounter {
 public:
  struct Options {
    std::string directory;
    bool allowOther = false;
  };

  // Makes the directory if it is absent, detaches a dead mount of ours that it finds there, and
  // refuses a directory that is not empty.
  Failure mount(const Options& options);
  // Takes over the connection that `fd` is a channel of, which another process mounted at `directory`,
  // given as directory() had it there.
  // `fd` is ours from now on, whatever comes of it.
  Failure adopt(const std::string& directory, int fd);
  // Detaches: lazily if it is busy. Leaves alone what is not ours any more. Idempotent.
  void unmount();
  // Ends the connection, whoever still uses it: blocked callers get an error and our blocked reads
  // return. False where this host gives us no way to; then closing every descriptor does it.
  bool abort();
  bool canAbort() const { return abortFd_ >= 0; }
  void closeChannel();
  // Removes the directory if mount() made it.
  void removeDirectory();

  // The kernel halves what it reads ahead to 128 KiB whatever INIT says; only sysfs raises it. Best
  // effort: needs root. Call after INIT was answered, which sets it too.
  bool setReadAhead(uint64_t bytes) const;

  // Another channel to the same connection, or -1: threads that read one descriptor contend for it.
  int clone() const;

  int fd() const { return fd_; }
  // Absolute and free of symbolic links.
  const std::string& directory() const { return directory_; }

 private:
  Failure resolveDirectory(const std::string& directory);
  Failure prepareDirectory(const std::string& directory);
  Failure mountAsRoot(bool allowOther);
  Failure mountWithHelper(bool allowOther);
  void openAbort();

  int fd_ = -1;
  int abortFd_ = -1;
  bool withHelper_ = false;
  bool madeDirectory_ = false;
  bool mounted_ = false;
  std::string directory_;
  // "0:57", and the 57 of it, which also names the connection.
  std::string device_;
};

}  // namespace memferry
