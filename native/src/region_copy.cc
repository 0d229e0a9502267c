// A region whose bytes are a copy of what is kept elsewhere: it may be taken away in part, and durability is elsewhere.
#include <utility>

#include "region.h"

namespace memferry {

int Region::awaitSync(Waiter& waiter) {
  if (!onSyncs_ || waiter.synced) return -1;
  return waiting_.parkSync(waiter, onSyncs_);
}

// Three steps: nobody new finds it present; those that did are done; then, if none of them has written, its bytes go.
// It is claimed all the while, so that no store brings it back in between.
void Region::evict(std::vector<uint32_t> chunks, std::function<void(std::vector<uint32_t>)> done) {
  auto held = std::make_shared<std::vector<uint32_t>>();
  for (const uint32_t chunk : chunks) {
    if (!present_.test(chunk) || dirty_.test(chunk) || !claimed_.set(chunk)) continue;
    if (state_) state_->clear(chunk);
    present_.clear(chunk);
    held->push_back(chunk);
  }
  auto finish = counted([this, held, done = std::move(done)] {
    std::vector<uint32_t> gone;
    for (const uint32_t chunk : *held) {
      if (takeAway(chunk)) gone.push_back(chunk);
    }
    done(std::move(gone));
  });
  inFlight_.quiesce([this, finish = std::move(finish)] { pool_.submit(finish); });
}

bool Region::takeAway(uint32_t chunk) {
  const bool written = shutdown_.load() || dirty_.test(chunk);
  // Where the hole cannot be made, the chunk is as good as present.
  const bool gone = !written && store_->zero(chunkOffset(chunk), chunkLength(chunk)) == 0;
  if (gone) {
    zeros_.set(chunk);
  } else {
    markPresent(chunk);
  }
  claimed_.clear(chunk);
  if (gone) {
    waiting_.leftAgain(chunk);
    grantIfAsked(chunk);
  } else {
    waiting_.arrived(chunk);
  }
  return gone;
}

}  // namespace memferry
