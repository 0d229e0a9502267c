// The bytes of a region on this host: a memfd or a file.
//
// A file is read and written by pread and pwrite only: a mapping of it would kill the process with SIGBUS when
// it is truncated or its disk fails under a hole; a system call returns an error instead. Our own memory is
// sealed, so it can be mapped.
//
// Any thread may call anything. The descriptor is closed by the destructor, so whoever holds the
// shared_ptr can never touch a number that the kernel has given to somebody else.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "failure.h"

namespace memferry {

struct StoreOptions {
  bool memory = false;
  // An open file of exactly the region's size, copied; its lock comes with it. -1: none.
  int descriptor = -1;
  std::string path;
  bool create = false;
  bool reserve = false;
  bool readOnly = false;
};

class Store {
 public:
  // Null and `failure` set, or a store of exactly `bytes` bytes that no other process has open.
  static std::shared_ptr<Store> open(const StoreOptions& options, uint64_t bytes, Failure& failure);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // Each answers 0 or an errno. A file that ends early is EIO, never zeros.
  int read(uint8_t* into, size_t length, uint64_t offset) const;
  int write(const uint8_t* from, size_t length, uint64_t offset);
  // Makes the range read as zeros: a hole, or zeroed blocks where blocks were reserved.
  struct Zeroing {
    bool keepBlocks = false;
    // Rather ENOTSUP than as much work as a write.
    bool fast = false;
  };
  int zero(uint64_t offset, uint64_t length, Zeroing how);
  int zero(uint64_t offset, uint64_t length) { return zero(offset, length, {}); }
  // Whether nothing is stored at `offset`, and in `until` where that changes.
  bool holeAt(uint64_t offset, uint64_t& until) const;
  // Whether all of it reads as zeros because nothing is stored there. False: it has to be read. Also right where
  // somebody else writes to the file: it is as if it had been read at the time of the call.
  bool isHole(uint64_t offset, uint64_t length) const;
  // Once it has failed it fails for good: the kernel says so once, then takes for clean what it never wrote.
  int sync();

  // All of it, or null: then it is a file.
  uint8_t* mapping() const { return mapping_; }

  bool readOnly() const { return options_.readOnly; }
  int descriptor() const { return fd_; }
  // Made by us just now: reads as zeros throughout.
  bool fresh() const { return fresh_; }
  // What an errno of the above means here, with the path, and with the truth about a truncated file.
  Failure explain(int error, const char* syscall) const;

 private:
  Store(const StoreOptions& options, uint64_t bytes) : options_(options), bytes_(bytes) {}
  Failure openMemory();
  Failure openFile();
  Failure openDescriptor();
  Failure prepareFile();
  void map();
  void learnFileSystem();
  int writeZeros(uint64_t offset, uint64_t length);
  bool shrunk() const;

  StoreOptions options_;
  uint64_t bytes_;
  int fd_ = -1;
  uint8_t* mapping_ = nullptr;
  bool fresh_ = false;
  bool holesTell_ = false;
  std::atomic<int> syncError_{0};
};

// Makes a name durable that was made or changed in a directory. 0 or an errno.
int syncDirectoryOf(const std::string& path);

}  // namespace memferry
