// What the addon keeps per JS environment (the main thread, or one worker), and its end.
//
// A cleanup hook stops every thread and detaches every mount of the environment while JS can no longer
// run, so a process may exit, and a worker may be terminated, at any moment.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <unordered_map>

#include "bridge.h"

namespace memferry {

// Objects hold it by shared_ptr: their finalizers may run after the instance data is gone.
class Environment {
 public:
  static const std::shared_ptr<Environment>& of(Napi::Env env) {
    return *env.GetInstanceData<std::shared_ptr<Environment>>();
  }

  // Null until `initialize` was called.
  std::shared_ptr<Bridge> bridge;
  Napi::FunctionReference regionClass;
  Napi::FunctionReference mountClass;

  // `stop` blocks until the thing's threads are gone. Mounts stop before regions.
  void onTeardown(const void* key, bool mount, std::function<void()> stop);
  void forget(const void* key);
  void teardown();

 private:
  std::unordered_map<const void*, std::function<void()>> mounts_;
  std::unordered_map<const void*, std::function<void()>> regions_;
};

}  // namespace memferry
