#include "region_state.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "chunk_hash.h"

namespace memferry {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHashBytes = 32;
constexpr size_t kSlotHeadBytes = 64;
constexpr size_t kBootIdBytes = 36;
constexpr char kMagic[8] = {'M', 'F', 'S', 'T', 'A', 'T', 'E', '1'};

struct Header {
  char magic[8];
  uint64_t bytes;
  uint32_t chunkBytes;
  uint32_t chunkCount;
  char bootId[kBootIdBytes];
};

struct SlotHead {
  uint64_t sequence;
  uint8_t digest[kHashBytes];
};

size_t pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// Changes with every start of the kernel; empty where it cannot be read, which then counts as another boot.
std::string bootId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id.size() == kBootIdBytes ? id : std::string();
}

void slotDigest(const uint8_t* slot, size_t slotBytes, uint8_t* out) {
  std::vector<uint8_t> content(sizeof(uint64_t) + slotBytes - kSlotHeadBytes);
  std::memcpy(content.data(), slot, sizeof(uint64_t));
  std::memcpy(content.data() + sizeof(uint64_t), slot + kSlotHeadBytes, slotBytes - kSlotHeadBytes);
  blake3(content.data(), content.size(), nullptr, out);
}

}  // namespace

struct RegionState::Layout {
  uint64_t bytes;
  uint32_t chunkBytes;
  uint32_t chunkCount;
};

std::shared_ptr<RegionState> RegionState::open(const Options& options, uint64_t bytes, uint32_t chunkBytes,
                                               uint32_t chunkCount, Failure& failure) {
  std::shared_ptr<RegionState> state(new RegionState());
  state->path_ = options.path;
  state->chunkCount_ = chunkCount;
  state->words_ = (chunkCount + 63) / 64;
  const size_t bitmapBytes = state->words_ * 8;
  state->liveOffset_ = kPage;
  state->slotOffset_ = state->liveOffset_ + pages(bitmapBytes);
  state->slotBytes_ = pages(kSlotHeadBytes + bitmapBytes);
  state->hashOffset_ = state->slotOffset_ + 2 * state->slotBytes_;
  state->mapBytes_ = state->hashOffset_ + pages(size_t{chunkCount} * kHashBytes);
  if (options.writes) {
    state->writtenOffset_ = state->mapBytes_;
    state->mapBytes_ += pages(bitmapBytes);
  }
  const Layout layout{bytes, chunkBytes, chunkCount};
  failure = options.resume ? state->resume(layout) : state->create(layout);
  return failure ? nullptr : state;
}

RegionState::~RegionState() {
  if (map_) ::munmap(map_, mapBytes_);
  if (fd_ >= 0) ::close(fd_);
}

Failure RegionState::create(const Layout& layout) {
  // Beside it at first: half a file is never found, and who still maps an older one keeps that.
  const std::string made = path_ + ".new";
  fd_ = ::open(made.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd_ < 0) return Failure::system(errno, "open", made);
  Failure failure = fill(layout);
  if (!failure && ::rename(made.c_str(), path_.c_str()) != 0) failure = Failure::system(errno, "rename", path_);
  if (failure) {
    ::unlink(made.c_str());  // best effort: the failure itself is what counts
    return failure;
  }
  const int error = syncDirectoryOf(path_);
  return error ? Failure::system(error, "fsync", path_) : Failure{};
}

Failure RegionState::fill(const Layout& layout) {
  // Every block now: a hole that finds no room when the mapping is written to would kill the process.
  if (const int error = ::posix_fallocate(fd_, 0, static_cast<off_t>(mapBytes_))) {
    return Failure::system(error, "fallocate", path_);
  }
  void* map = ::mmap(nullptr, mapBytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (map == MAP_FAILED) return Failure::system(errno, "mmap", path_);
  map_ = static_cast<uint8_t*>(map);
  Header header{};
  header.bytes = layout.bytes;
  header.chunkBytes = layout.chunkBytes;
  header.chunkCount = layout.chunkCount;
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  std::memcpy(header.bootId, bootId().data(), bootId().size());
  std::memcpy(map_, &header, sizeof header);
  if (::fsync(fd_) != 0) return Failure::system(errno, "fsync", path_);
  return {};
}

Failure RegionState::resume(const Layout& layout) {
  const auto damaged = [this](const std::string& what) {
    return Failure::named("ESTATE", "'" + path_ + "' " + what, path_);
  };
  fd_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (fd_ < 0) return Failure::system(errno, "open", path_);
  struct stat info;
  if (::fstat(fd_, &info) != 0) return Failure::system(errno, "fstat", path_);
  if (static_cast<uint64_t>(info.st_size) != mapBytes_) return damaged("is cut short or of another region");
  void* map = ::mmap(nullptr, mapBytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (map == MAP_FAILED) return Failure::system(errno, "mmap", path_);
  map_ = static_cast<uint8_t*>(map);
  Header header;
  std::memcpy(&header, map_, sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) return damaged("is no region state file");
  if (header.bytes != layout.bytes || header.chunkBytes != layout.chunkBytes ||
      header.chunkCount != layout.chunkCount) {
    return damaged("is of another region");
  }
  std::vector<uint64_t> declared(words_);
  for (const int which : {0, 1}) {
    if (!slotIsValid(which)) continue;
    SlotHead head;
    std::memcpy(&head, slot(which), sizeof head);
    if (head.sequence <= sequence_) continue;
    sequence_ = head.sequence;
    std::memcpy(declared.data(), slot(which) + kSlotHeadBytes, words_ * 8);
  }
  const std::string boot = bootId();
  if (boot.size() == kBootIdBytes && std::memcmp(header.bootId, boot.data(), kBootIdBytes) == 0) {
    restored_ = Restored::exact;
    return {};
  }
  // The bitmap first: with the old boot id in the header a crash in between brings us here again.
  for (size_t i = 0; i < words_; i++) live(i).store(declared[i]);
  if (flush(map_ + liveOffset_, words_ * 8) != 0) return Failure::system(errno, "msync", path_);
  std::memset(header.bootId, 0, kBootIdBytes);
  std::memcpy(header.bootId, boot.data(), boot.size());
  std::memcpy(map_, &header, sizeof header);
  if (flush(map_, sizeof header) != 0) return Failure::system(errno, "msync", path_);
  restored_ = Restored::checkpoint;
  return {};
}

std::atomic<uint64_t>& RegionState::live(size_t word) const {
  static_assert(sizeof(std::atomic<uint64_t>) == sizeof(uint64_t));
  return reinterpret_cast<std::atomic<uint64_t>*>(map_ + liveOffset_)[word];
}

std::atomic<uint64_t>& RegionState::written(size_t word) const {
  return reinterpret_cast<std::atomic<uint64_t>*>(map_ + writtenOffset_)[word];
}

void RegionState::markWritten(uint32_t first, uint32_t last) {
  for (size_t i = first / 64; i <= last / 64; i++) {
    uint64_t bits = ~0ull;
    if (i == first / 64) bits &= ~0ull << (first % 64);
    if (i == last / 64) bits &= ~0ull >> (63 - last % 64);
    std::atomic<uint64_t>& word = written(i);
    if ((word.load() & bits) != bits) word.fetch_or(bits);
  }
}

void RegionState::settle(const uint8_t* bits, const AtomicBitmap& dirty) {
  for (size_t i = 0; i < words_; i++) {
    uint64_t settled = 0;
    const size_t held = (chunkCount_ + 7) / 8 - i * 8;
    std::memcpy(&settled, bits + i * 8, held < 8 ? held : 8);
    if (settled == 0) continue;
    written(i).fetch_and(~settled);
    // A write that ended before this is in `dirty`; one that ends after it marks again by itself.
    if (const uint64_t again = settled & dirty.word(i).load()) written(i).fetch_or(again);
  }
}

void RegionState::copyWritten(uint8_t* out) const {
  const size_t bytes = (chunkCount_ + 7) / 8;
  for (size_t i = 0; i < words_; i++) {
    const uint64_t value = written(i).load();
    const size_t held = bytes - i * 8;
    std::memcpy(out + i * 8, &value, held < 8 ? held : 8);
  }
}

uint64_t RegionState::word(size_t word) const {
  const uint64_t value = live(word).load();
  const uint32_t tail = chunkCount_ % 64;
  return word + 1 == words_ && tail ? value & ((1ull << tail) - 1) : value;
}

void RegionState::setHash(uint32_t chunk, const uint8_t* hash) {
  std::memcpy(map_ + hashOffset_ + size_t{chunk} * kHashBytes, hash, kHashBytes);
}

void RegionState::copyHashes(uint8_t* out) const {
  std::memcpy(out, map_ + hashOffset_, size_t{chunkCount_} * kHashBytes);
}

uint8_t* RegionState::slot(int which) const { return map_ + slotOffset_ + which * slotBytes_; }

bool RegionState::slotIsValid(int which) const {
  SlotHead head;
  std::memcpy(&head, slot(which), sizeof head);
  uint8_t digest[kHashBytes];
  slotDigest(slot(which), slotBytes_, digest);
  return head.sequence > 0 && std::memcmp(digest, head.digest, kHashBytes) == 0;
}

int RegionState::flush(const uint8_t* from, size_t length) const {
  const auto start = reinterpret_cast<uintptr_t>(from) / kPage * kPage;
  const auto end = reinterpret_cast<uintptr_t>(from) + length;
  return ::msync(reinterpret_cast<void*>(start), end - start, MS_SYNC);
}

int RegionState::checkpoint(Store& store) {
  if (changes_.load() == declaredChanges_.load()) return store.sync();
  const std::lock_guard lock(checkpointMutex_);
  // Copied before the bytes are made durable: a chunk that comes in meanwhile is not declared by this one.
  const uint64_t changes = changes_.load();
  std::vector<uint64_t> present(words_);
  for (size_t i = 0; i < words_; i++) present[i] = live(i).load();
  if (const int error = store.sync()) return error;
  if (changes == declaredChanges_.load()) return 0;  // by who had the lock before us
  if (flush(map_ + hashOffset_, size_t{chunkCount_} * kHashBytes) != 0) return errno;
  // The slot that does not hold the newest one.
  uint8_t* const into = slot(static_cast<int>((sequence_ + 1) % 2));
  SlotHead head{};
  head.sequence = sequence_ + 1;
  std::memset(into, 0, kSlotHeadBytes);
  std::memcpy(into, &head.sequence, sizeof head.sequence);
  std::memcpy(into + kSlotHeadBytes, present.data(), words_ * 8);
  slotDigest(into, slotBytes_, head.digest);
  std::memcpy(into, &head, sizeof head);
  if (flush(into, slotBytes_) != 0) return errno;
  sequence_++;
  declaredChanges_.store(changes);
  return 0;
}

}  // namespace memferry
