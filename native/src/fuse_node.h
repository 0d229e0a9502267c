// One exported file: its region and the attributes that a workload may change.
//
// Written by the JS thread before it is published, then by FUSE workers through the atomics.
#pragma once

#include <linux/fuse.h>
#include <time.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "region.h"

namespace memferry {

class FuseNode {
 public:
  FuseNode(uint64_t id, std::string name, std::shared_ptr<Region> region, uint32_t mode, bool readOnly,
           uint32_t uid, uint32_t gid)
      : id(id),
        name(std::move(name)),
        region(std::move(region)),
        readOnly(readOnly),
        mode_(mode),
        uid_(uid),
        gid_(gid) {
    touch();
  }

  const uint64_t id;
  const std::string name;
  const std::shared_ptr<Region> region;
  const bool readOnly;

  // Sets mtime and ctime to now: after a write.
  void touch() {
    const uint64_t now = clockNs();
    mtimeNs_.store(now, std::memory_order_relaxed);
    ctimeNs_.store(now, std::memory_order_relaxed);
  }

  fuse_attr attributes() const {
    fuse_attr out{};
    out.ino = id;
    out.size = region->bytes();
    out.blocks = (region->bytes() + 511) / 512;
    out.mode = 0100000 | mode_.load(std::memory_order_relaxed);
    out.nlink = 1;
    out.uid = uid_.load(std::memory_order_relaxed);
    out.gid = gid_.load(std::memory_order_relaxed);
    out.blksize = 4096;
    const uint64_t mtime = mtimeNs_.load(std::memory_order_relaxed);
    const uint64_t ctime = ctimeNs_.load(std::memory_order_relaxed);
    out.atime = out.mtime = mtime / kNsPerSecond;
    out.atimensec = out.mtimensec = static_cast<uint32_t>(mtime % kNsPerSecond);
    out.ctime = ctime / kNsPerSecond;
    out.ctimensec = static_cast<uint32_t>(ctime % kNsPerSecond);
    return out;
  }

  // 0 or an errno. The size of a region never changes; the rest is remembered while mounted.
  int change(const fuse_setattr_in& in) {
    if ((in.valid & FATTR_SIZE) && in.size != region->bytes()) return EPERM;
    if (in.valid & FATTR_MODE) mode_.store(in.mode & 07777, std::memory_order_relaxed);
    if (in.valid & FATTR_UID) uid_.store(in.uid, std::memory_order_relaxed);
    if (in.valid & FATTR_GID) gid_.store(in.gid, std::memory_order_relaxed);
    const uint64_t now = clockNs();
    if (in.valid & FATTR_MTIME) {
      const bool toNow = in.valid & FATTR_MTIME_NOW;
      mtimeNs_.store(toNow ? now : in.mtime * kNsPerSecond + in.mtimensec, std::memory_order_relaxed);
    }
    ctimeNs_.store(now, std::memory_order_relaxed);
    return 0;
  }

 private:
  static constexpr uint64_t kNsPerSecond = 1'000'000'000;
  static uint64_t clockNs() {
    timespec now;
    // Coarse: a tick's resolution, and no cost on the write path.
    ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return static_cast<uint64_t>(now.tv_sec) * kNsPerSecond + static_cast<uint64_t>(now.tv_nsec);
  }

  std::atomic<uint32_t> mode_, uid_, gid_;
  std::atomic<uint64_t> mtimeNs_{0}, ctimeNs_{0};
};

}  // namespace memferry
