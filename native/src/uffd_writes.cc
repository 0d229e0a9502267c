// UffdSpace, the part that brings what was written.
#include <algorithm>
#include <cerrno>

#include "uffd_space.h"

namespace memferry {
namespace {

// Bytes brought back in one step.
constexpr uint64_t kBringBytes = 1 << 20;

}  // namespace

int UffdSpace::flush() {
  const std::lock_guard lock(flushMutex_);
  int failure = tracking_ == Tracking::async ? takeWritten() : 0;
  if (failure) return failure;
  for (const UffdMapping& mapping : mappings()) {
    const auto step = [&](AtomicBitmap& bits, int (UffdSpace::*use)(const UffdMapping&, uint64_t, uint64_t)) {
      const int error = takeRuns(bits, mapping, [&](uint64_t offset, uint64_t length) {
        return (this->*use)(mapping, offset, length);
      });
      if (error) failure = error;
    };
    step(recheck_, &UffdSpace::bring);
    step(discarded_, &UffdSpace::discard);
    step(written_, &UffdSpace::bring);
  }
  return failure;
}

int UffdSpace::takeWritten() {
  for (const UffdMapping& mapping : mappings()) {
    if (mapping.shared) {
      if (const int error = markWritten(mapping)) return error;
      continue;
    }
    const int error = scan_.take(mapping.address, mapping.length, !mapping.outlivesMapping, [&](uint64_t start, uint64_t end) {
      const uint64_t offset = mapping.offset + (start - mapping.address);
      const auto first = static_cast<uint32_t>(offset / kPage);
      const auto last = static_cast<uint32_t>((offset + (end - start) - 1) / kPage);
      if (first < written_.bits()) written_.setRange(first, std::min(last, written_.bits() - 1));
    });
    if (error) return error;
  }
  return 0;
}

// The bytes are where they belong. Not begun where the gate is shut: what is taken here is told of once.
int UffdSpace::markWritten(const UffdMapping& mapping) {
  const Admission admission = region_.begin(Access::write);
  if (admission.status) return admission.status == Admission::kWait ? EAGAIN : admission.status;
  const uint64_t end = region_.bytes();
  const int error = scan_.take(mapping.address, mapping.length, false, [&](uint64_t start, uint64_t until) {
    const uint64_t offset = mapping.offset + (start - mapping.address);
    if (offset < end) region_.markWritten(offset, std::min(until - start, end - offset));
  });
  region_.end(admission);
  return error;
}

int UffdSpace::takeRuns(AtomicBitmap& bits, const UffdMapping& mapping,
                        const std::function<int(uint64_t offset, uint64_t length)>& use) {
  int failure = 0;
  const auto first = static_cast<uint32_t>(mapping.offset / kPage);
  const auto end =
      static_cast<uint32_t>(std::min<uint64_t>((mapping.offset + mapping.length) / kPage, bits.bits()));
  for (uint32_t page = first; page < end;) {
    if (bits.word(page / 64).load() == 0) {
      page = (page / 64 + 1) * 64;
      continue;
    }
    if (!bits.test(page)) {
      page++;
      continue;
    }
    // Within a chunk's neighbours, so that one that is absent holds up no more than these.
    const uint64_t most = std::max<uint64_t>(1, kBringBytes / kPage);
    uint32_t until = page;
    while (until < end && until - page < most && bits.test(until)) bits.clear(until++);
    const int error = use(uint64_t{page} * kPage, uint64_t{until - page} * kPage);
    if (error) {
      bits.setRange(page, until - 1);
      failure = error;
      if (error != EAGAIN) return error;
    }
    page = until;
  }
  return failure;
}

int UffdSpace::discard(const UffdMapping& mapping, uint64_t offset, uint64_t length) {
  if (mapping.shared || mapping.outlivesMapping) {
    recheck_.setRange(static_cast<uint32_t>(offset / kPage), static_cast<uint32_t>((offset + length) / kPage - 1));
    return bring(mapping, offset, length);
  }
  const uint64_t held = std::min(length, region_.bytes() - offset);
  const Admission admission = region_.begin(Access::write, offset, held);
  if (admission.status) return admission.status == Admission::kWait ? EAGAIN : admission.status;
  const int error = region_.zeroAt(offset, held);
  region_.end(admission);
  return error;
}

int UffdSpace::bring(const UffdMapping& mapping, uint64_t offset, uint64_t length) {
  const uint64_t address = mapping.address + (offset - mapping.offset);
  // Before the bytes are read: a write after that is a mark again.
  if (tracking_ == Tracking::sync) {
    if (const int error = options_.fault.protect(address, length, true)) return error;
  }
  const uint64_t held = std::min(length, region_.bytes() - offset);
  const Admission admission = region_.begin(Access::write, offset, held);
  if (admission.status) return admission.status == Admission::kWait ? EAGAIN : admission.status;
  int error = 0;
  if (mapping.shared) {
    region_.endWrite(offset, held);
  } else if (uint8_t* const into = region_.beginWrite(offset, held)) {
    error = options_.memory.read(address, into, held);
    region_.endWrite(offset, held);
  } else {
    std::vector<uint8_t> bytes(held);
    error = options_.memory.read(address, bytes.data(), held);
    if (!error) error = region_.writeAt(bytes.data(), held, offset);
  }
  region_.end(admission);
  return error;
}

}  // namespace memferry
