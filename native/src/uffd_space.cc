#include "uffd_space.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "thread_name.h"
#include "uffd_wire.h"

namespace memferry {
namespace {

constexpr uint64_t kPage = UffdSpace::kPage;
// What one fault brings at most beyond its own page: neighbours are wanted next, and cost a tenth of a fault.
constexpr uint64_t kAroundBytes = 64 << 10;
constexpr size_t kMessages = 64;
// Waiting faults: one for each thread of the process that waits.
constexpr size_t kMaxFaults = 65536;
constexpr size_t kMaxChildren = 64;
constexpr std::chrono::microseconds kAgainPause{50};

uint64_t down(uint64_t value, uint64_t unit) { return value / unit * unit; }


uint32_t pagesOf(const Region& region) { return static_cast<uint32_t>((region.bytes() + kPage - 1) / kPage); }

}  // namespace

struct UffdSpace::Fault final : Waiter {
  void wake(int error) override { space->ready(this, error); }

  UffdSpace* space = nullptr;
  uint64_t address = 0;
  int failure = 0;
};

std::shared_ptr<UffdSpace> UffdSpace::start(Options options, Failure& failure) {
  std::shared_ptr<UffdSpace> space(new UffdSpace(std::move(options)));
  failure = space->watch();
  if (failure) {
    space->stopped_ = true;
    return nullptr;
  }
  space->run();
  return space;
}

UffdSpace::UffdSpace(Options options)
    : options_(std::move(options)),
      region_(*options_.region),
      handed_(pagesOf(region_)),
      written_(pagesOf(region_)),
      discarded_(pagesOf(region_)),
      recheck_(pagesOf(region_)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

UffdSpace::UffdSpace(const UffdSpace& parent, Userfault fault)
    : region_(parent.region_),
      handed_(pagesOf(parent.region_)),
      written_(pagesOf(parent.region_)),
      discarded_(pagesOf(parent.region_)),
      recheck_(pagesOf(parent.region_)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  options_.region = parent.options_.region;
  options_.fault = std::move(fault);
  options_.mappings = parent.options_.mappings;
  for (size_t i = 0; i < handed_.words(); i++) handed_.word(i).store(parent.handed_.word(i).load());
}

Failure UffdSpace::watch() {
  if (!wake_) return Failure::system(errno, "eventfd");
  scan_ = PageScan(options_.pid);
  for (const UffdMapping& mapping : options_.mappings) {
    const uint64_t minor = mapping.shared ? UFFDIO_REGISTER_MODE_MINOR : 0;
    const uint64_t mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP | minor;
    if (const int error = options_.fault.watch(mapping.address, mapping.length, mode)) {
      Failure failure = Failure::system(error, "ioctl");
      if (error == EINVAL) {
        failure.message +=
            ": this memory's faults or writes cannot be followed here; private anonymous memory needs Linux 5.7, shared "
            "memory 5.19";
      }
      return failure;
    }
    // One that does not have it for all has to do without.
    if (!scan_.works(mapping.address, mapping.length)) tracking_ = Tracking::sync;
    if (!options_.isFresh) continue;
    if (const int error = options_.fault.protect(mapping.address, mapping.length, true)) {
      return Failure::system(error, "ioctl");
    }
  }
  return {};
}

void UffdSpace::run() {
  reader_ = std::thread([this] { readMessages(); });
  resumer_ = std::thread([this] { resume(); });
}

// --- messages ---

void UffdSpace::readMessages() {
  becomeHelperThread("memferry-uffd");
  std::array<uffd_msg, kMessages> messages;
  for (;;) {
    const int count = options_.fault.read(messages.data(), messages.size());
    if (count < 0) return;
    for (int i = 0; i < count; i++) handle(messages[i]);
    if (count > 0) continue;
    pollfd watched[2] = {{options_.fault.fd(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(watched, 2, -1) < 0) continue;
    if (watched[1].revents) return;
    if (watched[0].revents & (POLLERR | POLLHUP | POLLNVAL)) return;
  }
}

void UffdSpace::handle(const uffd_msg& message) {
  switch (message.event) {
    case UFFD_EVENT_PAGEFAULT:
      return pageFault(message.arg.pagefault.address, message.arg.pagefault.flags);
    case UFFD_EVENT_REMOVE:
      return removed(message.arg.remove.start, message.arg.remove.end);
    case UFFD_EVENT_UNMAP:
      return unmapped(message.arg.remove.start, message.arg.remove.end);
    case UFFD_EVENT_REMAP:
      return moved(message.arg.remap.from, message.arg.remap.to, message.arg.remap.len);
    case UFFD_EVENT_FORK:
      return forked(static_cast<int>(message.arg.fork.ufd));
    default:
      return;
  }
}

void UffdSpace::pageFault(uint64_t address, uint64_t flags) {
  if (flags & UFFD_PAGEFAULT_FLAG_WP) return writeFault(address);
  std::unique_ptr<Fault> none;
  if (!serve(address, none)) park(std::move(none));
}

// Marked first: whoever takes the mark protects the page again before it reads it.
void UffdSpace::writeFault(uint64_t address) {
  Window page;
  if (!windowAt(address, page)) {
    options_.fault.protect(down(address, kPage), kPage, false);
    return;
  }
  for (uint64_t at = page.offset; at < page.offset + page.length; at += kPage) {
    written_.set(static_cast<uint32_t>(at / kPage));
  }
  if (options_.fault.protect(page.address, page.length, false) == EAGAIN) later(address);
}

void UffdSpace::removed(uint64_t start, uint64_t end) {
  for (const UffdMapping& mapping : mappings()) {
    const uint64_t from = std::max(start, mapping.address);
    const uint64_t until = std::min(end, mapping.address + mapping.length);
    for (uint64_t at = from; at < until; at += kPage) {
      const auto page = static_cast<uint32_t>((mapping.offset + (at - mapping.address)) / kPage);
      if (page >= handed_.bits()) break;
      // What was written there before is void; not so in memory that others have.
      if (!mapping.shared && !mapping.outlivesMapping) written_.clear(page);
      handed_.set(page);
      discarded_.set(page);
    }
  }
}

void UffdSpace::unmapped(uint64_t start, uint64_t end) {
  const std::lock_guard lock(mutex_);
  std::vector<UffdMapping> left;
  for (const UffdMapping& mapping : options_.mappings) {
    const uint64_t until = mapping.address + mapping.length;
    if (end <= mapping.address || start >= until) {
      left.push_back(mapping);
      continue;
    }
    if (start > mapping.address) {
      left.push_back(mapping);
      left.back().length = start - mapping.address;
    }
    if (end < until) {
      left.push_back(mapping);
      left.back().address = end;
      left.back().offset = mapping.offset + (end - mapping.address);
      left.back().length = until - end;
    }
  }
  options_.mappings = std::move(left);
}

void UffdSpace::moved(uint64_t from, uint64_t to, uint64_t length) {
  std::vector<UffdMapping> parts;
  for (const UffdMapping& mapping : mappings()) {
    const uint64_t start = std::max(from, mapping.address);
    const uint64_t end = std::min(from + length, mapping.address + mapping.length);
    if (start >= end) continue;
    parts.push_back(mapping);
    parts.back().address = to + (start - from);
    parts.back().offset = mapping.offset + (start - mapping.address);
    parts.back().length = end - start;
  }
  unmapped(from, from + length);
  const std::lock_guard lock(mutex_);
  options_.mappings.insert(options_.mappings.end(), parts.begin(), parts.end());
}

void UffdSpace::forked(int fd) {
  Userfault fault{Descriptor(fd)};
  const std::lock_guard lock(mutex_);
  // A process that is gone says so to whatever is asked of its memory; of one that lives, this asks nothing.
  std::erase_if(children_, [](const auto& child) {
    uint64_t done;
    return !child->options_.mappings.empty() &&
           child->options_.fault.map(child->options_.mappings.front().address, kPage, done) == ESRCH;
  });
  std::shared_ptr<UffdSpace> child(new UffdSpace(*this, std::move(fault)));
  children_.push_back(child);
  // One more than we serve waits: its descriptor stays open, or it would read zeros.
  if (children_.size() <= kMaxChildren) child->run();
}

// --- faults ---

std::vector<UffdMapping> UffdSpace::mappings() const {
  const std::lock_guard lock(mutex_);
  return options_.mappings;
}

bool UffdSpace::windowAt(uint64_t address, Window& out) const {
  const std::lock_guard lock(mutex_);
  for (const UffdMapping& mapping : options_.mappings) {
    if (address < mapping.address || address >= mapping.address + mapping.length) continue;
    const uint64_t start = down(address - mapping.address, mapping.pageBytes);
    const uint64_t offset = mapping.offset + start;
    if (offset >= region_.bytes()) return false;
    out = {mapping.address + start, offset, mapping.pageBytes, mapping.shared};
    return true;
  }
  return false;
}

bool UffdSpace::serve(uint64_t address, std::unique_ptr<Fault>& made) {
  Window page;
  if (!windowAt(address, page)) {
    // Beyond the region, or of a mapping that grew.
    uint64_t done;
    const uint64_t start = down(address, kPage);
    if (options_.fault.zero(start, kPage, done) == EEXIST) options_.fault.wake(start, kPage);
    return true;
  }
  // Thrown away: zeros, whatever the gate says. A flush that reads such a page must not wait for a gate that waits for it.
  if (!page.shared && handed_.test(static_cast<uint32_t>(page.offset / kPage))) {
    if (!fillPrivate(page, page, nullptr)) later(address);
    return true;
  }
  const uint64_t length = std::min(page.length, region_.bytes() - page.offset);
  const Admission admission = region_.begin(Access::read, page.offset, length);
  if (admission.status == Admission::kWait) {
    if (!made) {
      made = std::make_unique<Fault>();
      made->space = this;
      made->address = address;
      made->access = Access::read;
      made->owner = this;
    }
    made->offset = page.offset;
    made->length = length;
    made->first = region_.chunkAt(page.offset);
    made->last = region_.chunkAt(page.offset + length - 1);
    return false;
  }
  if (admission.status) {
    refuse(page);
    return true;
  }
  if (!answer(page)) later(address);
  region_.end(admission);
  return true;
}

// The page, and what of its chunk stands around it. False: the process is changing its memory, ask again.
bool UffdSpace::answer(const Window& page) {
  Window around = page;
  const std::vector<UffdMapping> all = mappings();
  for (const UffdMapping& mapping : all) {
    if (page.address < mapping.address || page.address >= mapping.address + mapping.length) continue;
    const uint64_t unit = std::max<uint64_t>(std::min<uint64_t>(region_.chunkBytes(), kAroundBytes), page.length);
    const uint64_t start = std::max(down(page.offset, unit), mapping.offset);
    const uint64_t end = std::min(down(page.offset, unit) + unit, mapping.offset + mapping.length);
    around = {page.address - (page.offset - start), start, end - start, page.shared};
  }
  // Whole pages: the region may end within the last.
  around.length = std::min(around.length, (region_.bytes() - around.offset + page.length - 1) / page.length * page.length);
  if (page.shared) {
    // From now on it may be written without our knowing.
    region_.noteHanded(around.offset, std::min(around.length, region_.bytes() - around.offset));
    return mapShared(page, around);
  }
  const uint64_t held = std::min(around.length, region_.bytes() - around.offset);
  if (region_.knownZero(around.offset, held)) return fillPrivate(page, around, nullptr);
  if (held == around.length) {
    if (const uint8_t* const bytes = region_.view(around.offset, held)) return fillPrivate(page, around, bytes);
  }
  thread_local std::vector<uint8_t> buffer;
  buffer.assign(around.length, 0);
  if (region_.readAt(buffer.data(), held, around.offset) != 0) {
    refuse(page);
    return true;
  }
  return fillPrivate(page, around, buffer.data());
}

bool UffdSpace::fillPrivate(const Window& page, const Window& around, const uint8_t* bytes) {
  const std::lock_guard lock(mutex_);
  const auto pageIndex = [](uint64_t offset) { return static_cast<uint32_t>(offset / kPage); };
  uint64_t at = 0;
  while (at < around.length) {
    // A run of pages that it never had; what it had and has no more it threw away.
    const bool own = around.offset + at == page.offset;
    const bool had = handed_.test(pageIndex(around.offset + at));
    if (had && !own) {
      at += page.length;
      continue;
    }
    uint64_t end = at + page.length;
    while (!had && end < around.length && !handed_.test(pageIndex(around.offset + end))) end += page.length;
    uint64_t done = 0;
    const uint64_t address = around.address + at;
    int error;
    if (!had && bytes) {
      error = options_.fault.copy(address, bytes + at, end - at, done);
    } else {
      error = page.length == kPage ? options_.fault.zero(address, end - at, done) : EEXIST;
      // Huge pages cannot be had as zeros, and a page that is protected before it is there only by a copy.
      if (error == EEXIST && done == 0) {
        const std::vector<uint8_t> zeros(page.length);
        error = options_.fault.copy(address, zeros.data(), page.length, done);
      }
    }
    for (uint64_t i = 0; i < done; i += kPage) handed_.set(pageIndex(around.offset + at + i));
    at += done;
    if (error == 0) continue;
    if (error == EAGAIN && done > 0) continue;
    if (error == EEXIST) {
      // There already: of another fault, or of a life before this one.
      handed_.set(pageIndex(around.offset + at));
      if (around.offset + at == page.offset) options_.fault.wake(page.address, page.length);
      at += page.length;
      continue;
    }
    // EAGAIN: only who still waits has to be answered.
    return error != EAGAIN || (around.offset + at > page.offset);
  }
  return true;
}

bool UffdSpace::mapShared(const Window& page, const Window& around) {
  uint64_t at = 0;
  while (at < around.length) {
    uint64_t done = 0;
    int error = options_.fault.map(around.address + at, around.length - at, done);
    at += done;
    if (error == 0 || (error == EAGAIN && done > 0)) continue;
    const bool own = around.offset + at == page.offset;
    if (error == EFAULT && own) {
      // A hole of the file.
      error = options_.fault.zero(page.address, page.length, done);
      if (error == 0) error = EEXIST;
    }
    if (error == EEXIST) {
      if (own) options_.fault.wake(page.address, page.length);
      at += page.length;
      continue;
    }
    if (error == EFAULT) {
      // Another hole: it waits for who wants it.
      at += page.length;
      continue;
    }
    return error != EAGAIN || around.offset + at > page.offset;
  }
  return true;
}

// A load cannot be told an error; it can be stopped.
void UffdSpace::refuse(const Window& page) {
  options_.fault.poison(page.address, page.length);  // since Linux 6.6; before, it waits
}

void UffdSpace::park(std::unique_ptr<Fault> fault) {
  for (;;) {
    {
      std::unique_lock lock(queueMutex_);
      resumable_.wait(lock, [&] { return leaving_ || parked_.size() < kMaxFaults; });
      if (leaving_) return;
      // Before it parks: as soon as it has, any thread may wake it.
      parked_.insert(fault.get());
    }
    const int error = region_.waiting().park(*fault);
    if (error == 0) {
      fault.release();
      return;
    }
    {
      const std::lock_guard lock(queueMutex_);
      parked_.erase(fault.get());
    }
    if (error > 0) {
      Window page;
      if (windowAt(fault->address, page)) refuse(page);
      return;
    }
    if (serve(fault->address, fault)) return;
  }
}

void UffdSpace::ready(Fault* fault, int error) {
  {
    const std::lock_guard lock(queueMutex_);
    fault->failure = error;
    queue_.push_back(fault);
  }
  resumable_.notify_all();
}

void UffdSpace::later(uint64_t address) {
  {
    const std::lock_guard lock(queueMutex_);
    again_.push_back(address);
  }
  resumable_.notify_all();
}

void UffdSpace::resume() {
  becomeHelperThread("memferry-uffd-r");
  std::unique_lock lock(queueMutex_);
  for (;;) {
    resumable_.wait(lock, [&] { return leaving_ || !queue_.empty() || !again_.empty(); });
    if (leaving_) return;
    if (!queue_.empty()) {
      std::unique_ptr<Fault> fault(queue_.front());
      queue_.pop_front();
      parked_.erase(fault.get());
      lock.unlock();
      resumable_.notify_all();
      if (fault->failure) {
        Window page;
        if (windowAt(fault->address, page)) refuse(page);
      } else if (!serve(fault->address, fault)) {
        park(std::move(fault));
      }
      lock.lock();
      continue;
    }
    const uint64_t address = again_.front();
    again_.pop_front();
    lock.unlock();
    // The reader has to have the events that are in the way.
    std::this_thread::sleep_for(kAgainPause);
    // Whoever waits for it, for whatever reason, asks again.
    options_.fault.wake(down(address, kPage), kPage);
    lock.lock();
  }
}

// --- the end ---

void UffdSpace::stop() {
  const std::lock_guard stopLock(stopMutex_);
  if (std::exchange(stopped_, true)) return;
  {
    const std::lock_guard lock(queueMutex_);
    leaving_ = true;
  }
  resumable_.notify_all();
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(wake_.get(), &one, sizeof one);
  if (reader_.joinable()) reader_.join();
  if (resumer_.joinable()) resumer_.join();
  std::vector<std::shared_ptr<UffdSpace>> children;
  {
    const std::lock_guard lock(mutex_);
    children.swap(children_);
  }
  children.clear();
  // Nobody adds to them any more. One that is not in the waiting room is in the hands of who wakes it.
  for (;;) {
    std::unique_lock lock(queueMutex_);
    for (Fault* fault : queue_) {
      parked_.erase(fault);
      delete fault;
    }
    queue_.clear();
    std::erase_if(parked_, [&](Fault* fault) {
      if (!region_.waiting().cancel(*fault)) return false;
      delete fault;
      return true;
    });
    if (parked_.empty()) return;
    resumable_.wait(lock, [&] { return !queue_.empty(); });
  }
}

}  // namespace memferry
