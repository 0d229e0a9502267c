#include "fuse_data.h"

#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>

#include "fuse_wire.h"

namespace memferry {
namespace {

// Checks and clips; replies and answers false if there is nothing left to do.
bool prepare(FuseData& data) {
  const uint64_t size = data.node->region->bytes();
  int error = 0;
  bool nothing = false;
  if (data.opcode == FUSE_READ) {
    nothing = data.offset >= size || data.length == 0;
    if (!nothing) data.length = std::min(data.length, size - data.offset);
    if (data.length > kMaxIoBytes) error = EINVAL;  // never sent: past what INIT agreed
  } else if (data.node->readOnly) {
    error = EROFS;
  } else if (data.opcode == FUSE_WRITE) {
    nothing = data.length == 0;
    if (!nothing && data.offset >= size) error = ENOSPC;
    // The part that fits; the kernel reports the short count, and the rest meets ENOSPC.
    if (!error && !nothing) data.length = std::min(data.length, size - data.offset);
  } else {
    const bool zeroing = data.mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);
    const bool keepSize = data.mode & FALLOC_FL_KEEP_SIZE;
    const bool past = data.length > size || data.offset > size - data.length;
    if (data.mode & ~(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)) {
      error = EOPNOTSUPP;
    } else if (past && !keepSize) {
      error = EPERM;  // a region does not grow
    } else if (past && !zeroing) {
      error = ENOSPC;
    } else {
      // Reserving inside the region is the store's business and was done, or not, when it was made.
      nothing = !zeroing || data.offset >= size || data.length == 0;
      if (!nothing) data.length = std::min(data.length, size - data.offset);
    }
  }
  if (!error && !nothing) return true;
  fuse_write_out none{};
  const bool written = !error && data.opcode == FUSE_WRITE;
  fuseReply(data.fd, data.unique, error, written ? &none : nullptr, written ? sizeof none : 0);
  return false;
}

}  // namespace

bool decodeFuseData(const FuseDirectory& files, int fd, const fuse_in_header& header, const uint8_t* rest,
                    size_t length, FuseData& data) {
  data.fd = fd;
  data.unique = header.unique;
  data.opcode = header.opcode;
  data.node = files.node(header.nodeid);
  if (!data.node) {
    // The root directory can be fsynced, nothing else.
    fuseReply(data.fd, data.unique, header.opcode == FUSE_FSYNC ? 0 : EISDIR);
    return false;
  }
  switch (header.opcode) {
    case FUSE_READ: {
      const auto in = fuseBody<fuse_read_in>(rest, length);
      data.offset = in.offset;
      data.length = in.size;
      data.locksPages = !(in.flags & O_DIRECT);
      break;
    }
    case FUSE_WRITE: {
      const auto in = fuseBody<fuse_write_in>(rest, length);
      data.offset = in.offset;
      data.bytes = rest + sizeof in;
      data.length = length >= sizeof in ? std::min<uint64_t>(in.size, length - sizeof in) : 0;
      break;
    }
    case FUSE_FALLOCATE: {
      const auto in = fuseBody<fuse_fallocate_in>(rest, length);
      data.offset = in.offset;
      data.length = in.length;
      data.mode = static_cast<int>(in.mode);
      break;
    }
    default: {
      data.internal = fuseBody<fuse_fsync_in>(rest, length).fh == kInternalHandle;
      return true;
    }
  }
  return prepare(data);
}

}  // namespace memferry
