#include "fuse_warmer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <fstream>
#include <utility>

#include "thread_name.h"

namespace memferry {
namespace {

// How long chunks are gathered: a few of them side by side cost hardly more than one.
constexpr std::chrono::milliseconds kGather{2};
// In one call: of more the kernel takes what its read-ahead allows, and forgets the rest.
constexpr uint64_t kCallBytes = 128 << 10;
// Of what is free at the first chunk, all that is ever asked for; and what must stay free of the host's memory.
constexpr uint64_t kShare = 4;
constexpr uint64_t kReserve = 8;
// How much goes by between two looks at the memory.
constexpr uint64_t kLookBytes = 16 << 20;

struct Memory {
  uint64_t totalBytes = 0;
  uint64_t availableBytes = 0;
};

Memory hostMemory() {
  Memory out;
  std::ifstream info("/proc/meminfo");
  std::string field;
  uint64_t kib = 0;
  for (std::string rest; info >> field >> kib; std::getline(info, rest)) {
    if (field == "MemTotal:") out.totalBytes = kib * 1024;
    if (field == "MemAvailable:") {
      out.availableBytes = kib * 1024;
      break;
    }
  }
  return out;
}

}  // namespace

void FuseWarmer::start(std::string directory) {
  directory_ = std::move(directory);
  thread_ = std::thread([this] { run(); });
}

void FuseWarmer::stop() {
  std::vector<Entry*> entries;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const auto& entry : entries_) entries.push_back(entry.get());
  }
  wake_.notify_all();
  // Not under our mutex: a region holds its own while it tells us.
  for (Entry* entry : entries) entry->node.region->forgetArrivals(entry);
  if (thread_.joinable()) thread_.join();
  const std::lock_guard lock(mutex_);
  entries_.clear();
}

void FuseWarmer::add(const FuseNode& node) {
  Entry* entry;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    entry = entries_.emplace_back(std::make_unique<Entry>(node)).get();
  }
  node.region->onArrival(entry, [this, entry](uint32_t chunk) { arrived(*entry, chunk); });
}

void FuseWarmer::arrived(Entry& entry, uint32_t chunk) {
  entry.arrived.set(chunk);
  const std::lock_guard lock(mutex_);
  if (!std::exchange(news_, true)) wake_.notify_one();
}

void FuseWarmer::run() {
  becomeHelperThread("memferry-warm");
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return stopping_ || news_; });
    wake_.wait_for(lock, kGather, [&] { return stopping_.load(); });
    if (stopping_) return;
    news_ = false;
    std::vector<Entry*> entries;
    for (const auto& entry : entries_) entries.push_back(entry.get());
    lock.unlock();
    for (Entry* entry : entries) warm(*entry);
    lock.lock();
  }
}

void FuseWarmer::warm(Entry& entry) {
  const std::string path = directory_ + "/" + entry.node.name;
  // What is dropped below is dropped by taking the bits and doing nothing.
  const bool open = entry.node.region->gate() == Gate::open && !stopping_;
  const int fd = open ? ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
  bool wanted = fd >= 0;
  uint32_t first = 0;
  uint32_t count = 0;
  for (size_t i = 0; i < entry.arrived.words(); i++) {
    uint64_t bits = entry.arrived.word(i).exchange(0);
    for (; bits; bits &= bits - 1) {
      const auto chunk = static_cast<uint32_t>(i * 64) + static_cast<uint32_t>(std::countr_zero(bits));
      if (count > 0 && chunk != first + count) {
        wanted = wanted && readAhead(*entry.node.region, fd, first, first + count - 1);
        count = 0;
      }
      if (count++ == 0) first = chunk;
    }
  }
  if (wanted && count > 0) readAhead(*entry.node.region, fd, first, first + count - 1);
  if (fd >= 0) ::close(fd);
}

bool FuseWarmer::readAhead(const Region& region, int fd, uint32_t first, uint32_t last) {
  const uint64_t end = region.chunkOffset(last) + region.chunkLength(last);
  for (uint64_t at = region.chunkOffset(first); at < end; at += kCallBytes) {
    const uint64_t bytes = std::min(kCallBytes, end - at);
    if (stopping_ || region.gate() != Gate::open || !memoryAllows(bytes)) return false;
    // Begins reads and waits for none of them.
    if (::posix_fadvise(fd, static_cast<off_t>(at), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED) != 0) return false;
  }
  return true;
}

bool FuseWarmer::memoryAllows(uint64_t bytes) {
  sinceLookBytes_ += bytes;
  if (!looked_ || isShort_ || sinceLookBytes_ >= kLookBytes) {
    const Memory memory = hostMemory();
    if (!looked_) budgetBytes_ = memory.availableBytes / kShare;
    looked_ = true;
    sinceLookBytes_ = 0;
    isShort_ = memory.availableBytes < memory.totalBytes / kReserve;
  }
  if (isShort_ || budgetBytes_ < bytes) return false;
  budgetBytes_ -= bytes;
  return true;
}

}  // namespace memferry
