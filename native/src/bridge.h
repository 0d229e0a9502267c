// The way from our threads to the JS thread of one environment, and the promises that travel it.
//
// post(), resolve() and reject() may be called by any thread at any time, also after the environment
// is gone: then they do nothing. Everything else belongs to the JS thread.
//
// What the threads send are plain C++ closures: they own no JS handle, so it does not matter on which
// thread they are freed. JS handles (the deferred, and the buffers that a job reads or fills) stay in
// `pending_`, which only the JS thread touches. The loop is held open exactly while `pending_` is not
// empty.
#pragma once

#include <napi.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "failure.h"

namespace memferry {

class Bridge : public std::enable_shared_from_this<Bridge> {
 public:
  using Call = std::function<void(Napi::Env)>;
  using Produce = std::function<Napi::Value(Napi::Env)>;

  static std::shared_ptr<Bridge> create(Napi::Env env, Napi::Function errorClass);

  struct Pending {
    uint64_t id;
    Napi::Promise promise;
  };
  // `keep` stays referenced until the promise settles.
  Pending open(Napi::Env env, std::initializer_list<Napi::Value> keep);
  Napi::Error error(Napi::Env env, const Failure& failure) const;
  Napi::Promise rejected(Napi::Env env, const Failure& failure) const;
  // From a cleanup hook, on the JS thread; after mute().
  void close();

  // Nothing is delivered after this. For the end of the process or the environment.
  void mute();
  void post(Call call);
  void resolve(uint64_t id, Produce produce);
  void resolve(uint64_t id) {
    resolve(id, [](Napi::Env env) { return env.Undefined(); });
  }
  void reject(uint64_t id, Failure failure);

 private:
  struct Entry {
    Napi::Promise::Deferred deferred;
    std::vector<Napi::ObjectReference> keep;
  };

  static void deliver(napi_env env, napi_value, void* context, void*);
  void run(Napi::Env env);
  void settle(Napi::Env env, uint64_t id, const std::function<void(Napi::Env, Napi::Promise::Deferred&)>& how);

  Napi::FunctionReference errorClass_;
  napi_threadsafe_function function_ = nullptr;
  std::unordered_map<uint64_t, Entry> pending_;
  uint64_t nextId_ = 1;

  std::mutex mutex_;
  bool muted_ = false;
  std::vector<Call> calls_;
};

}  // namespace memferry
