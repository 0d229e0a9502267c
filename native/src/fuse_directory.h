// The one directory of a mount: its files, their names and attributes.
//
// add() and clear() belong to one thread at a time; the rest is for any thread. A FuseNode lives until
// clear(), which must not be called while requests are served.
#pragma once

#include <linux/fuse.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "failure.h"
#include "fuse_node.h"

namespace memferry {

class FuseDirectory {
 public:
  Failure add(const std::string& name, std::shared_ptr<Region> region, uint32_t mode, bool readOnly);
  void clear();

  FuseNode* find(const std::string& name) const;
  FuseNode* node(uint64_t id) const;

  // Answers every request that is not for data. `buffer` has room for kMaxIoBytes; `flusherThread` is
  // the kernel's number for the thread whose opens are our own.
  void serve(int fd, const fuse_in_header& header, const uint8_t* body, size_t length, uint8_t* buffer,
             int flusherThread);

 private:
  void lookup(int fd, const fuse_in_header& header, const uint8_t* body, size_t length);
  void list(int fd, const fuse_in_header& header, const fuse_read_in& in, uint8_t* out);
  void attributes(int fd, const fuse_in_header& header, const uint8_t* body, size_t length);
  void open(int fd, const fuse_in_header& header, const fuse_open_in& in, int flusherThread);
  void statfs(int fd, const fuse_in_header& header);
  void seek(int fd, const fuse_in_header& header, const fuse_lseek_in& in);

  // A mount is for a handful of regions.
  static constexpr size_t kMaxFiles = 256;
  static constexpr uint64_t kRootId = FUSE_ROOT_ID;
  static constexpr uint64_t kFirstFileId = kRootId + 1;

  // Published by count_: workers read while the JS thread adds.
  std::array<std::atomic<FuseNode*>, kMaxFiles> nodes_{};
  std::atomic<size_t> count_{0};
  std::vector<std::unique_ptr<FuseNode>> owned_;
};

}  // namespace memferry
