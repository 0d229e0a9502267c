#include "bridge.h"

#include <utility>

namespace memferry {

std::shared_ptr<Bridge> Bridge::create(Napi::Env env, Napi::Function errorClass) {
  auto bridge = std::make_shared<Bridge>();
  bridge->errorClass_ = Napi::Persistent(errorClass);
  // The function outlives us by a moment (its finalizer runs late in teardown), so it holds its own
  // reference.
  auto* self = new std::shared_ptr<Bridge>(bridge);
  const napi_status status = napi_create_threadsafe_function(
      env, nullptr, nullptr, Napi::String::New(env, "memferry"), 0, 1, self,
      [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<Bridge>*>(data); },
      bridge.get(), &Bridge::deliver, &bridge->function_);
  if (status != napi_ok) {
    delete self;
    return nullptr;
  }
  napi_unref_threadsafe_function(env, bridge->function_);
  return bridge;
}

Bridge::Pending Bridge::open(Napi::Env env, std::initializer_list<Napi::Value> keep) {
  Entry entry{Napi::Promise::Deferred::New(env), {}};
  for (const Napi::Value& value : keep) {
    if (value.IsObject()) entry.keep.push_back(Napi::Persistent(value.As<Napi::Object>()));
  }
  const Napi::Promise promise = entry.deferred.Promise();
  const uint64_t id = nextId_++;
  if (pending_.empty()) napi_ref_threadsafe_function(env, function_);
  pending_.emplace(id, std::move(entry));
  return {id, promise};
}

Napi::Error Bridge::error(Napi::Env env, const Failure& failure) const {
  Napi::Object details = Napi::Object::New(env);
  // Negative, as the runtime's own system errors have it.
  if (failure.error) details.Set("errno", Napi::Number::New(env, -failure.error));
  if (failure.syscall) details.Set("syscall", Napi::String::New(env, failure.syscall));
  if (!failure.path.empty()) details.Set("path", Napi::String::New(env, failure.path));
  const Napi::Object made = errorClass_.New(
      {Napi::String::New(env, failure.code), Napi::String::New(env, failure.message), details});
  return Napi::Error(env, made);
}

Napi::Promise Bridge::rejected(Napi::Env env, const Failure& failure) const {
  auto deferred = Napi::Promise::Deferred::New(env);
  deferred.Reject(error(env, failure).Value());
  return deferred.Promise();
}

void Bridge::mute() {
  const std::lock_guard lock(mutex_);
  muted_ = true;
  calls_.clear();
}

void Bridge::close() {
  pending_.clear();
  errorClass_.Reset();
  napi_release_threadsafe_function(function_, napi_tsfn_abort);
}

void Bridge::post(Call call) {
  // The call into Node-API stays under the mutex: mute() promises that nobody calls the function any more.
  // It only queues and wakes, so it cannot come back to us.
  const std::lock_guard lock(mutex_);
  if (muted_) return;
  calls_.push_back(std::move(call));
  // One wake for a batch: the JS thread empties the list.
  if (calls_.size() == 1) napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
}

void Bridge::resolve(uint64_t id, Produce produce) {
  post([this, id, produce = std::move(produce)](Napi::Env env) {
    settle(env, id, [&](Napi::Env settling, Napi::Promise::Deferred& deferred) {
      deferred.Resolve(produce(settling));
    });
  });
}

void Bridge::reject(uint64_t id, Failure failure) {
  post([this, id, failure = std::move(failure)](Napi::Env env) {
    settle(env, id, [&](Napi::Env settling, Napi::Promise::Deferred& deferred) {
      deferred.Reject(error(settling, failure).Value());
    });
  });
}

void Bridge::settle(Napi::Env env, uint64_t id,
                    const std::function<void(Napi::Env, Napi::Promise::Deferred&)>& how) {
  auto found = pending_.extract(id);
  if (found.empty()) return;
  how(env, found.mapped().deferred);
  if (pending_.empty()) napi_unref_threadsafe_function(env, function_);
}

void Bridge::deliver(napi_env env, napi_value, void* context, void*) {
  if (env == nullptr) return;  // the function is being torn down
  // Held for the length of the run: a callback may tear us down.
  const auto self = static_cast<Bridge*>(context)->shared_from_this();
  self->run(Napi::Env(env));
}

void Bridge::run(Napi::Env env) {
  std::vector<Call> calls;
  {
    const std::lock_guard lock(mutex_);
    calls.swap(calls_);
  }
  for (const Call& call : calls) {
    Napi::HandleScope scope(env);
    call(env);
    if (!env.IsExceptionPending()) continue;
    // A callback of ours threw. It has no caller to catch it: an uncaught exception, as it is for any
    // event handler. The other calls still run, or their promises would never settle.
    const Napi::Error thrown = env.GetAndClearPendingException();
    napi_fatal_exception(env, thrown.Value());
  }
}

}  // namespace memferry
