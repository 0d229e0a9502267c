// Ends a thing that has threads, for a promise: another thread waits for them, so that JS does not.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "bridge.h"
#include "thread_name.h"

namespace memferry {

// `stop` may block and runs on a thread of its own; `release` runs on the JS thread after it, while `self` is alive.
// A second call gets a thread of its own too, and waits for the first inside `stop`.
inline Napi::Promise endLater(const std::shared_ptr<Bridge>& bridge, Napi::Value self, const char* threadName,
                              std::function<void()> stop, std::function<void()> release) {
  const auto pending = bridge->open(self.Env(), {self});
  std::thread([bridge, threadName, id = pending.id, stop = std::move(stop), release = std::move(release)] {
    becomeHelperThread(threadName);
    stop();
    bridge->resolve(id, [release](Napi::Env settling) {
      release();
      return settling.Undefined();
    });
  }).detach();
  return pending.promise;
}

// Runs what may block on a thread of its own; the promise fails with what it answers.
inline Napi::Promise runLater(const std::shared_ptr<Bridge>& bridge, Napi::Value self, const char* threadName,
                              std::function<Failure()> work) {
  const auto pending = bridge->open(self.Env(), {self});
  std::thread([bridge, threadName, id = pending.id, work = std::move(work)] {
    becomeHelperThread(threadName);
    Failure failure = work();
    if (failure) return bridge->reject(id, std::move(failure));
    bridge->resolve(id);
  }).detach();
  return pending.promise;
}

}  // namespace memferry
