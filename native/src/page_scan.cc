#include "page_scan.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <string>
#include <vector>

#include "uffd_wire.h"

namespace memferry {
namespace {

constexpr size_t kRegions = 32768;

uffd::PageScanArguments question(uint64_t address, uint64_t length) {
  uffd::PageScanArguments arguments{};
  arguments.size = sizeof arguments;
  arguments.start = address;
  arguments.end = address + length;
  arguments.categoryMask = uffd::kPageIsWritten;
  arguments.returnMask = uffd::kPageIsWritten;
  return arguments;
}

}  // namespace

PageScan::PageScan(int pid)
    : fd_(::open(("/proc/" + std::to_string(pid) + "/pagemap").c_str(), O_RDONLY | O_CLOEXEC)) {}

bool PageScan::works(uint64_t address, uint64_t length) const {
  if (!fd_) return false;
  uffd::PageScanArguments arguments = question(address, length);
  uffd::PageRegion one;
  arguments.flags = uffd::kScanCheckAsync;
  arguments.vec = reinterpret_cast<uint64_t>(&one);
  arguments.vecLength = 1;
  return ::ioctl(fd_.get(), uffd::kPageScan, &arguments) >= 0;
}

int PageScan::take(uint64_t address, uint64_t length, bool onlyThere,
                   const std::function<void(uint64_t start, uint64_t end)>& found) const {
  thread_local std::vector<uffd::PageRegion> regions(kRegions);
  const uint64_t end = address + length;
  // The walk ends at the last run that it tells of, also where nothing follows.
  for (uint64_t at = address; at < end;) {
    uffd::PageScanArguments arguments = question(at, end - at);
    arguments.flags = uffd::kScanProtectMatching | uffd::kScanCheckAsync;
    arguments.vec = reinterpret_cast<uint64_t>(regions.data());
    arguments.vecLength = regions.size();
    if (onlyThere) arguments.categoryAnyOf = uffd::kPageIsPresent | uffd::kPageIsSwapped;
    const int count = ::ioctl(fd_.get(), uffd::kPageScan, &arguments);
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    for (int i = 0; i < count; i++) found(regions[i].start, regions[i].end);
    if (arguments.walkEnd <= at) break;
    at = arguments.walkEnd;
  }
  return 0;
}

}  // namespace memferry
