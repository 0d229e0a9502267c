#include "fuse_directory.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "fuse_wire.h"

namespace memferry {
namespace {

// Names never change; attributes do where a region is exported twice.
constexpr uint64_t kEntryValidSeconds = 3600;
constexpr uint64_t kAttrValidSeconds = 1;

fuse_attr rootAttributes(size_t files) {
  fuse_attr out{};
  out.ino = FUSE_ROOT_ID;
  out.mode = 0040755;
  out.nlink = 2;
  out.size = files;
  out.uid = ::geteuid();
  out.gid = ::getegid();
  out.blksize = kPageBytes;
  return out;
}

fuse_entry_out entryOf(const FuseNode& node) {
  fuse_entry_out out{};
  out.nodeid = node.id;
  out.entry_valid = kEntryValidSeconds;
  out.attr_valid = kAttrValidSeconds;
  out.attr = node.attributes();
  return out;
}

}  // namespace

Failure FuseDirectory::add(const std::string& name, std::shared_ptr<Region> region, uint32_t mode, bool readOnly) {
  if (name.empty() || name.size() > 255 || name == "." || name == ".." ||
      name.find('/') != std::string::npos || name.find('\0') != std::string::npos) {
    return Failure::named("EINVAL", "'" + name + "' cannot be a file's name");
  }
  if (find(name)) return Failure::named("EEXIST", "'" + name + "' is in this mount already");
  const size_t index = count_.load();
  if (index == kMaxFiles) return Failure::named("ENOSPC", "a mount holds at most 256 regions");
  owned_.push_back(std::make_unique<FuseNode>(kFirstFileId + index, name, std::move(region), mode, readOnly,
                                              ::geteuid(), ::getegid()));
  nodes_[index].store(owned_.back().get());
  count_.store(index + 1);
  return {};
}

void FuseDirectory::clear() {
  count_.store(0);
  for (auto& each : nodes_) each.store(nullptr);
  owned_.clear();
}

FuseNode* FuseDirectory::find(const std::string& name) const {
  const size_t count = count_.load();
  for (size_t i = 0; i < count; i++) {
    FuseNode* candidate = nodes_[i].load();
    if (candidate && candidate->name == name) return candidate;
  }
  return nullptr;
}

FuseNode* FuseDirectory::node(uint64_t id) const {
  return id >= kFirstFileId && id - kFirstFileId < count_.load() ? nodes_[id - kFirstFileId].load() : nullptr;
}

void FuseDirectory::lookup(int fd, const fuse_in_header& header, const uint8_t* body, size_t length) {
  const char* name = reinterpret_cast<const char*>(body);
  const FuseNode* found = header.nodeid == kRootId ? find(std::string(name, ::strnlen(name, length))) : nullptr;
  if (!found) {
    fuseReply(fd, header.unique, ENOENT);
    return;
  }
  const fuse_entry_out out = entryOf(*found);
  fuseReply(fd, header.unique, 0, &out, sizeof out);
}

void FuseDirectory::list(int fd, const fuse_in_header& header, const fuse_read_in& in, uint8_t* out) {
  const bool plus = header.opcode == FUSE_READDIRPLUS;
  const size_t room = std::min<size_t>(in.size, kMaxIoBytes);
  const size_t headBytes = plus ? sizeof(fuse_entry_out) : 0;
  size_t used = 0;
  const size_t count = count_.load();
  for (uint64_t at = in.offset; at < count + 2; at++) {
    const FuseNode* file = at < 2 ? nullptr : nodes_[at - 2].load();
    const std::string name = file ? file->name : at == 0 ? "." : "..";
    const size_t bytes = FUSE_DIRENT_ALIGN(headBytes + FUSE_NAME_OFFSET + name.size());
    if (used + bytes > room) break;
    std::memset(out + used, 0, bytes);
    if (plus && file) {
      const fuse_entry_out entry = entryOf(*file);
      std::memcpy(out + used, &entry, sizeof entry);
    }
    fuse_dirent dirent{};
    dirent.ino = file ? file->id : kRootId;
    dirent.off = at + 1;
    dirent.namelen = static_cast<uint32_t>(name.size());
    dirent.type = file ? 8 : 4;  // DT_REG, DT_DIR
    std::memcpy(out + used + headBytes, &dirent, FUSE_NAME_OFFSET);
    std::memcpy(out + used + headBytes + FUSE_NAME_OFFSET, name.data(), name.size());
    used += bytes;
  }
  fuseReply(fd, header.unique, 0, out, used);
}

void FuseDirectory::attributes(int fd, const fuse_in_header& header, const uint8_t* body, size_t length) {
  FuseNode* const file = node(header.nodeid);
  int error = 0;
  if (header.opcode == FUSE_SETATTR) {
    const bool fenced = file && file->region->gate() == Gate::fenced;
    error = !file ? EPERM : fenced ? ESTALE : file->change(fuseBody<fuse_setattr_in>(body, length));
  } else if (!file && header.nodeid != kRootId) {
    error = ENOENT;
  }
  fuse_attr_out out{};
  out.attr_valid = kAttrValidSeconds;
  if (!error) out.attr = file ? file->attributes() : rootAttributes(count_.load());
  fuseReply(fd, header.unique, error, &out, error ? 0 : sizeof out);
}

void FuseDirectory::open(int fd, const fuse_in_header& header, const fuse_open_in& in, int flusherThread) {
  const FuseNode* const file = node(header.nodeid);
  const bool internal = static_cast<int>(header.pid) == flusherThread;
  int error = 0;
  if (!file) {
    error = ENOENT;
  } else if (file->region->gate() == Gate::fenced && !internal) {
    // Our own flush gets in: it is how the cache of a fenced region is emptied.
    error = ESTALE;
  } else if (file->readOnly && (in.flags & O_ACCMODE) != O_RDONLY) {
    error = EROFS;
  }
  fuse_open_out out{};
  out.fh = internal ? kInternalHandle : kHandle;
  // What is cached stays good: only this mount's own clients change the file, and invalidate() is
  // explicit.
  out.open_flags = FOPEN_KEEP_CACHE;
  fuseReply(fd, header.unique, error, &out, error ? 0 : sizeof out);
}

void FuseDirectory::statfs(int fd, const fuse_in_header& header) {
  fuse_statfs_out out{};
  const size_t count = count_.load();
  for (size_t i = 0; i < count; i++) {
    out.st.blocks += (nodes_[i].load()->region->bytes() + kPageBytes - 1) / kPageBytes;
  }
  out.st.bsize = out.st.frsize = kPageBytes;
  out.st.files = count;
  out.st.namelen = 255;
  fuseReply(fd, header.unique, 0, &out, sizeof out);
}

// No holes are told of: what is absent here is a hole in the store and data in the region.
void FuseDirectory::seek(int fd, const fuse_in_header& header, const fuse_lseek_in& in) {
  const FuseNode* const file = node(header.nodeid);
  const uint64_t size = file ? file->region->bytes() : 0;
  int error = 0;
  if (!file) {
    error = EISDIR;
  } else if (file->region->gate() == Gate::fenced) {
    error = ESTALE;
  } else if (in.whence != SEEK_DATA && in.whence != SEEK_HOLE) {
    error = EINVAL;
  } else if (in.offset >= size) {
    error = ENXIO;
  }
  fuse_lseek_out out{};
  out.offset = in.whence == SEEK_DATA ? in.offset : size;
  fuseReply(fd, header.unique, error, &out, error ? 0 : sizeof out);
}

void FuseDirectory::serve(int fd, const fuse_in_header& header, const uint8_t* body, size_t length,
                          uint8_t* buffer, int flusherThread) {
  switch (header.opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
      return;  // nodes live as long as the mount; these have no reply
    case FUSE_LOOKUP:
      return lookup(fd, header, body, length);
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
      return list(fd, header, fuseBody<fuse_read_in>(body, length), buffer);
    case FUSE_GETATTR:
    case FUSE_SETATTR:
      return attributes(fd, header, body, length);
    case FUSE_OPEN:
      return open(fd, header, fuseBody<fuse_open_in>(body, length), flusherThread);
    case FUSE_OPENDIR: {
      const fuse_open_out out{};
      return fuseReply(fd, header.unique, 0, &out, sizeof out);
    }
    case FUSE_STATFS:
      return statfs(fd, header);
    case FUSE_LSEEK:
      return seek(fd, header, fuseBody<fuse_lseek_in>(body, length));
    case FUSE_FLUSH: {
      // Without a write-back cache there is nothing that close() would have to wait for.
      const FuseNode* const file = node(header.nodeid);
      return fuseReply(fd, header.unique, file && file->region->gate() == Gate::fenced ? ESTALE : 0);
    }
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FSYNCDIR:
    case FUSE_ACCESS:  // default_permissions: the kernel has checked
    case FUSE_DESTROY:
      return fuseReply(fd, header.unique, 0);
    case FUSE_CREATE:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_LINK:
    case FUSE_SYMLINK:
      return fuseReply(fd, header.unique, EPERM);
    case FUSE_IOCTL:
      return fuseReply(fd, header.unique, ENOTTY);
    default:
      // Among them xattrs, POLL, BMAP and COPY_FILE_RANGE: the kernel remembers and does without.
      return fuseReply(fd, header.unique, ENOSYS);
  }
}

}  // namespace memferry
