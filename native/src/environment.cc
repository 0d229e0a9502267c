#include "environment.h"

#include <cstdlib>
#include <utility>
#include <vector>

namespace memferry {
namespace {

struct Registry {
  std::mutex mutex;
  std::vector<std::weak_ptr<Environment>> environments;
};

// Never destroyed: threads and exit handlers may come in any order at the end of a process.
Registry& registry() {
  static auto* const one = new Registry;
  return *one;
}

}  // namespace

std::shared_ptr<Environment> Environment::create() {
  auto environment = std::make_shared<Environment>();
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  if (all.environments.empty()) std::atexit(&Environment::atProcessExit);
  all.environments.push_back(environment);
  return environment;
}

void Environment::atProcessExit() {
  std::vector<std::weak_ptr<Environment>> environments;
  {
    Registry& all = registry();
    const std::lock_guard lock(all.mutex);
    environments = all.environments;
  }
  for (const auto& weak : environments) {
    const auto environment = weak.lock();
    if (!environment) continue;
    // The runtime may be half gone: nothing may call into it any more.
    if (environment->bridge) environment->bridge->mute();
    // Regions need nothing: their bytes are the kernel's already.
    environment->stopAll(Kind::mount);
  }
}

void Environment::onTeardown(const void* key, Kind kind, std::function<void()> stop) {
  const std::lock_guard lock(mutex_);
  (kind == Kind::mount ? mounts_ : regions_).emplace(key, std::move(stop));
}

void Environment::forget(const void* key) {
  const std::lock_guard lock(mutex_);
  mounts_.erase(key);
  regions_.erase(key);
}

void Environment::stopAll(Kind kind) {
  std::unordered_map<const void*, std::function<void()>> stops;
  {
    const std::lock_guard lock(mutex_);
    stops.swap(kind == Kind::mount ? mounts_ : regions_);
  }
  for (const auto& [key, stop] : stops) stop();
}

void Environment::teardown() {
  if (bridge) bridge->mute();
  stopAll(Kind::mount);
  stopAll(Kind::region);
  if (bridge) bridge->close();
  regionClass.Reset();
  mountClass.Reset();
  nbdClass.Reset();
  deviceClass.Reset();
  uffdClass.Reset();
  mappingClass.Reset();
  directClass.Reset();
}

}  // namespace memferry
