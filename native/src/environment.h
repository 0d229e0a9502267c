// What the addon keeps per JS environment (the main thread, or one worker), and its end.
//
// There are two ends. A cleanup hook runs while an environment is taken down in order (the loop ran
// empty, a worker was terminated): every thread stops, every mount is detached. process.exit() skips the
// hooks, on Node as on Deno, so an atexit handler detaches what is still mounted then. After SIGKILL
// neither runs; the next mountFuse() there clears the dead mount away.
//
// Objects hold it by shared_ptr: their finalizers may run after the instance data is gone.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "bridge.h"

namespace memferry {

class Environment {
 public:
  static const std::shared_ptr<Environment>& of(Napi::Env env) {
    return *env.GetInstanceData<std::shared_ptr<Environment>>();
  }
  static std::shared_ptr<Environment> create();

  // Null until `initialize` was called.
  std::shared_ptr<Bridge> bridge;
  Napi::FunctionReference regionClass;
  Napi::FunctionReference mountClass;
  Napi::FunctionReference nbdClass;
  Napi::FunctionReference deviceClass;
  Napi::FunctionReference uffdClass;
  Napi::FunctionReference mappingClass;
  Napi::FunctionReference directClass;

  // `stop` blocks until the thing's threads are gone; it may run on any thread.
  enum class Kind { mount, region };  // a server of any kind is a mount
  void onTeardown(const void* key, Kind kind, std::function<void()> stop);
  void forget(const void* key);
  // On the JS thread.
  void teardown();

 private:
  static void atProcessExit();
  void stopAll(Kind kind);

  // The exit handler runs on the main thread, perhaps while a worker's JS adds and removes.
  std::mutex mutex_;
  std::unordered_map<const void*, std::function<void()>> mounts_;
  std::unordered_map<const void*, std::function<void()>> regions_;
};

}  // namespace memferry
