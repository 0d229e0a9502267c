// userfaultfd(2) and PAGEMAP_SCAN as the newest kernels have them; headers may be older.
#pragma once

#include <linux/ioctl.h>
#include <linux/userfaultfd.h>

#include <cstdint>

namespace memferry::uffd {

constexpr uint64_t kEventFork = 1ull << 1;
constexpr uint64_t kEventRemap = 1ull << 2;
constexpr uint64_t kEventRemove = 1ull << 3;
constexpr uint64_t kMissingShmem = 1ull << 5;
constexpr uint64_t kEventUnmap = 1ull << 6;
constexpr uint64_t kMinorShmem = 1ull << 10;
constexpr uint64_t kWpShmem = 1ull << 12;
constexpr uint64_t kWpUnpopulated = 1ull << 13;  // 6.4
constexpr uint64_t kWpAsync = 1ull << 15;        // 6.7
constexpr uint64_t kPagefaultWp = 1ull << 0;

constexpr int kUserModeOnly = 1;
constexpr uint64_t kContinueWp = 1ull << 1;

struct Poison {  // 6.6
  uffdio_range range;
  uint64_t mode;
  int64_t updated;
};
constexpr unsigned long kPoison = _IOWR(UFFDIO, 0x08, Poison);
// Of /dev/userfaultfd.
constexpr unsigned long kDeviceNew = _IO(UFFDIO, 0x00);

struct PageRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};

struct PageScanArguments {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walkEnd;
  uint64_t vec;
  uint64_t vecLength;
  uint64_t maxPages;
  uint64_t categoryInverted;
  uint64_t categoryMask;
  uint64_t categoryAnyOf;
  uint64_t returnMask;
};
constexpr unsigned long kPageScan = _IOWR('f', 16, PageScanArguments);
constexpr uint64_t kScanProtectMatching = 1ull << 0;
constexpr uint64_t kScanCheckAsync = 1ull << 1;
constexpr uint64_t kPageIsWritten = 1ull << 1;
constexpr uint64_t kPageIsPresent = 1ull << 3;
constexpr uint64_t kPageIsSwapped = 1ull << 4;

}  // namespace memferry::uffd
