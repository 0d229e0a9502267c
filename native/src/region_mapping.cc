#include "region_mapping.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "uffd_wire.h"

namespace memferry {
namespace {

constexpr size_t kPage = 4096;

bool isMemory(int fd) {
  struct statfs info;
  return ::fstatfs(fd, &info) == 0 && info.f_type == TMPFS_MAGIC;
}

}  // namespace

std::shared_ptr<RegionMapping> RegionMapping::open(std::shared_ptr<Region> region, bool forceSync, Failure& failure) {
  const int fd = region->descriptor();
  if (!isMemory(fd)) {
    failure = Failure::named("EINVAL",
                             "only a region in memory, or in a file on tmpfs, can be mapped: use FUSE for a file on a disk");
    return nullptr;
  }
  Userfault fault;
  failure = Userfault::open(uffd::kPagefaultWp | uffd::kMissingShmem | uffd::kMinorShmem | uffd::kWpShmem |
                                uffd::kWpUnpopulated | (forceSync ? 0 : uffd::kWpAsync),
                            fault);
  if (failure) return nullptr;
  if (!(fault.features() & uffd::kMinorShmem) || !(fault.features() & uffd::kWpShmem)) {
    failure = Failure::named("ENOSYS", "mapping a region needs Linux 5.19: use FUSE on this one");
    return nullptr;
  }
  std::shared_ptr<RegionMapping> mapping(new RegionMapping(region));
  mapping->length_ = (region->bytes() + kPage - 1) / kPage * kPage;
  const int rights = PROT_READ | (region->readOnly() ? 0 : PROT_WRITE);
  void* const at = ::mmap(nullptr, mapping->length_, rights, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (at == MAP_FAILED) {
    failure = Failure::system(errno, "mmap");
    return nullptr;
  }
  mapping->data_ = static_cast<uint8_t*>(at);
  // A core dump or a child has no business with somebody's memory.
  ::madvise(at, mapping->length_, MADV_DONTDUMP);
  ::madvise(at, mapping->length_, MADV_DONTFORK);
  UffdSpace::Options options;
  options.region = std::move(region);
  options.fault = std::move(fault);
  options.pid = ::getpid();
  options.isFresh = true;
  options.mappings.push_back({.address = reinterpret_cast<uint64_t>(at),
                              .length = mapping->length_,
                              .offset = 0,
                              .pageBytes = kPage,
                              .shared = true,
                              .outlivesMapping = true});
  mapping->space_ = UffdSpace::start(std::move(options), failure);
  if (failure) return nullptr;
  mapping->region_->addFlush(mapping.get(), [weak = std::weak_ptr<UffdSpace>(mapping->space_)] {
    const auto space = weak.lock();
    return space ? space->flush() : 0;
  });
  return mapping;
}

RegionMapping::~RegionMapping() {
  region_->removeFlush(this);
  if (space_) space_->stop();
  // Before the descriptor goes: whoever is in the middle of a fault would be given zeros.
  if (data_) ::munmap(data_, length_);
}

}  // namespace memferry
