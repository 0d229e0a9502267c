#include "environment.h"

#include <utility>

namespace memferry {

void Environment::onTeardown(const void* key, bool mount, std::function<void()> stop) {
  (mount ? mounts_ : regions_).emplace(key, std::move(stop));
}

void Environment::forget(const void* key) {
  mounts_.erase(key);
  regions_.erase(key);
}

void Environment::teardown() {
  for (const auto& [key, stop] : std::exchange(mounts_, {})) stop();
  for (const auto& [key, stop] : std::exchange(regions_, {})) stop();
  if (bridge) bridge->close();
  bridge.reset();
  regionClass.Reset();
  mountClass.Reset();
}

}  // namespace memferry
