// A request for a file's data: READ, WRITE, FALLOCATE, FSYNC, as the kernel sent it and clipped to the region.
#pragma once

#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>

#include "fuse_directory.h"
#include "fuse_node.h"
#include "waiting_room.h"

namespace memferry {

// What is needed to serve one, wherever it came from.
struct FuseData {
  int fd = -1;
  uint64_t unique = 0;
  FuseNode* node = nullptr;
  uint32_t opcode = 0;
  // The kernel's own handle: a flush by us, which need not reach the disk.
  bool internal = false;
  int mode = 0;  // of FALLOCATE
  uint64_t offset = 0;
  uint64_t length = 0;
  const uint8_t* bytes = nullptr;  // of WRITE
  bool locksPages = false;
  Access access() const { return opcode == FUSE_READ ? Access::read : Access::write; }
};

// False if there is nothing left to do: it has been answered.
bool decodeFuseData(const FuseDirectory& files, int fd, const fuse_in_header& header, const uint8_t* body,
                    size_t length, FuseData& data);

}  // namespace memferry
