#include "region_object.h"

#include <climits>
#include <thread>
#include <utility>
#include <vector>

#include "arguments.h"
#include "ending.h"
#include "environment.h"
#include "thread_name.h"
#include "values.h"

namespace memferry {
namespace {

constexpr uint64_t kMinChunkBytes = 4096;
constexpr uint64_t kMaxChunkBytes = 4 << 20;
constexpr uint64_t kMaxThreads = 64;
constexpr uint64_t kMaxRegionBytes = 1ull << 53;

struct GateName {
  Gate gate;
  const char* name;
};
constexpr GateName kGates[] = {{Gate::open, "open"},
                               {Gate::draining, "draining"},
                               {Gate::closed, "closed"},
                               {Gate::fenced, "fenced"}};

Gate gateArgument(Arguments& arguments, const Napi::Value& value) {
  const std::string name = arguments.string(value, "gate");
  for (const GateName& entry : kGates) {
    if (name == entry.name) return entry.gate;
  }
  arguments.refuse("gate must be open, draining, closed or fenced");
  return Gate::closed;
}

StoreOptions storeArgument(Arguments& arguments, const Napi::Object& object) {
  StoreOptions store;
  const std::string kind = arguments.string(object.Get("kind"), "store.kind");
  if (kind == "memory") {
    store.memory = true;
    return store;
  }
  if (kind == "descriptor") {
    store.descriptor = static_cast<int>(arguments.integer(object.Get("fd"), "store.fd", 0, INT_MAX));
    return store;
  }
  if (kind != "file") arguments.refuse("store.kind must be memory, file or descriptor");
  if (!arguments.ok()) return store;
  store.path = arguments.string(object.Get("path"), "store.path");
  if (store.path.find('\0') != std::string::npos) arguments.refuse("store.path must not contain NUL");
  store.create = arguments.boolean(object.Get("create"), "store.create");
  store.reserve = arguments.boolean(object.Get("reserve"), "store.reserve");
  store.readOnly = arguments.boolean(object.Get("readOnly"), "store.readOnly", false);
  return store;
}

}  // namespace

Napi::Function RegionObject::define(Napi::Env env) {
  return DefineClass(env, "NativeRegion",
                     {
                         InstanceAccessor<&RegionObject::bytes>("bytes", napi_enumerable),
                         InstanceAccessor<&RegionObject::chunkBytes>("chunkBytes", napi_enumerable),
                         InstanceAccessor<&RegionObject::chunkCount>("chunkCount", napi_enumerable),
                         InstanceAccessor<&RegionObject::id>("id", napi_enumerable),
                         InstanceAccessor<&RegionObject::gate>("gate", napi_enumerable),
                         InstanceMethod<&RegionObject::read>("read"),
                         InstanceMethod<&RegionObject::hash>("hash"),
                         InstanceMethod<&RegionObject::store>("store"),
                         InstanceMethod<&RegionObject::sync>("sync"),
                         InstanceMethod<&RegionObject::checkpoint>("checkpoint"),
                         InstanceMethod<&RegionObject::storedHashes>("storedHashes"),
                         InstanceAccessor<&RegionObject::descriptor>("descriptor", napi_enumerable),
                         InstanceAccessor<&RegionObject::restored>("restored", napi_enumerable),
                         InstanceMethod<&RegionObject::takeDirty>("takeDirty"),
                         InstanceMethod<&RegionObject::mergeDirty>("mergeDirty"),
                         InstanceMethod<&RegionObject::presence>("presence"),
                         InstanceMethod<&RegionObject::setPresent>("setPresent"),
                         InstanceMethod<&RegionObject::setGate>("setGate"),
                         InstanceMethod<&RegionObject::quiesce>("quiesce"),
                         InstanceMethod<&RegionObject::retryFaults>("retryFaults"),
                         InstanceMethod<&RegionObject::failParked>("failParked"),
                         InstanceMethod<&RegionObject::stats>("stats"),
                         InstanceMethod<&RegionObject::flushMappings>("flushMappings"),
                         InstanceMethod<&RegionObject::rekey>("rekey"),
                         InstanceMethod<&RegionObject::takeSyncs>("takeSyncs"),
                         InstanceMethod<&RegionObject::settleSyncs>("settleSyncs"),
                         InstanceMethod<&RegionObject::settleWritten>("settleWritten"),
                         InstanceMethod<&RegionObject::written>("written"),
                         InstanceMethod<&RegionObject::evict>("evict"),
                         InstanceMethod<&RegionObject::close>("close"),
                     });
}

Napi::Value RegionObject::open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const Napi::Object given = arguments.object(info[0], "options");
  if (!arguments.ok()) return env.Undefined();

  RegionOptions options;
  const Napi::Object store = arguments.object(given.Get("store"), "store");
  if (!arguments.ok()) return env.Undefined();
  options.store = storeArgument(arguments, store);
  options.bytes = arguments.integer(given.Get("bytes"), "bytes", 1, kMaxRegionBytes);
  options.chunkBytes = static_cast<uint32_t>(
      arguments.integer(given.Get("chunkBytes"), "chunkBytes", kMinChunkBytes, kMaxChunkBytes));
  if (options.chunkBytes & (options.chunkBytes - 1)) arguments.refuse("chunkBytes must be a power of two");
  // An index must stay below ZERO_CHUNK's neighbourhood and fit a Uint32Array.
  if (options.bytes / options.chunkBytes >= 0xffffffff) arguments.refuse("bytes make too many chunks");
  const auto key = arguments.bytes(given.Get("hashKey"), "hashKey");
  if (arguments.ok() && key.length != 32) arguments.refuse("hashKey must have 32 bytes");
  options.hashKey = key.data;
  const std::string present = arguments.string(given.Get("present"), "present");
  if (present != "all" && present != "none") arguments.refuse("present must be all or none");
  options.present = present == "all";
  options.gate = gateArgument(arguments, given.Get("gate"));
  if (options.gate != Gate::open && options.gate != Gate::closed) {
    arguments.refuse("gate must be open or closed at first");
  }
  const Napi::Value state = given.Get("state");
  if (!state.IsUndefined()) {
    const Napi::Object fields = arguments.object(state, "state");
    if (!arguments.ok()) return env.Undefined();
    options.state.path = arguments.string(fields.Get("path"), "state.path");
    const std::string mode = arguments.string(fields.Get("mode"), "state.mode");
    if (mode != "create" && mode != "resume") arguments.refuse("state.mode must be create or resume");
    if (options.state.path.empty()) arguments.refuse("state.path must not be empty");
    options.state.resume = mode == "resume";
    options.state.writes = arguments.boolean(fields.Get("writes"), "state.writes", false);
  }
  options.writeThrough = arguments.boolean(given.Get("writeThrough"), "writeThrough", false);
  options.evictable = arguments.boolean(given.Get("evictable"), "evictable", false);
  const Napi::Value onSync = given.Get("onSync");
  if (!onSync.IsUndefined() && !onSync.IsFunction()) arguments.refuse("onSync must be a function");
  if (options.writeThrough && !onSync.IsFunction()) arguments.refuse("writeThrough needs onSync");
  options.threads =
      static_cast<unsigned>(arguments.integer(given.Get("threads"), "threads", 1, kMaxThreads, 2));
  const Napi::Value onFault = given.Get("onFault");
  if (!onFault.IsUndefined() && !onFault.IsFunction()) arguments.refuse("onFault must be a function");
  if (!arguments.ok()) return env.Undefined();

  const auto& environment = Environment::of(env);
  const std::shared_ptr<Bridge> bridge = environment->bridge;
  auto faults = std::make_shared<FaultSink>();
  options.onFaults = teller(bridge, faults);
  auto syncs = std::make_shared<FaultSink>();
  if (onSync.IsFunction()) {
    options.onSyncs = teller(bridge, syncs, [](Napi::Env, const Napi::Function& callback, Region&) { callback.Call({}); });
  }

  Failure failure;
  std::shared_ptr<Region> region = Region::open(options, failure);
  if (!region) {
    bridge->error(env, failure).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  faults->region = region;

  Napi::Object made = environment->regionClass.New({});
  if (made.IsEmpty()) return env.Undefined();  // terminated meanwhile
  keepCallback(made, "onFault", onFault, *faults);
  syncs->region = region;
  keepCallback(made, "onSync", onSync, *syncs);
  RegionObject* self = Unwrap(made);
  self->faults_ = std::move(faults);
  self->syncs_ = std::move(syncs);
  // Weak, or a closed region would keep its descriptor and lock until the collector comes by.
  environment->onTeardown(self, Environment::Kind::region, [weak = std::weak_ptr<Region>(region)] {
    if (const auto alive = weak.lock()) alive->shutdown();
  });
  self->become(environment, std::move(region));
  return made;
}

Napi::Value RegionObject::share(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const uint64_t id = arguments.integer(info[0], "id", 1, (1ull << 53) - 1);
  const Napi::Value onFault = info[1].IsObject() ? info[1].As<Napi::Object>().Get("onFault") : env.Undefined();
  if (!onFault.IsUndefined() && !onFault.IsFunction()) arguments.refuse("onFault must be a function");
  if (!arguments.ok()) return env.Undefined();
  const auto& environment = Environment::of(env);
  std::shared_ptr<Region> region = Region::find(id);
  if (!region) {
    environment->bridge->error(env, Failure::named("ESHUTDOWN", "the region is closed")).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  Napi::Object made = environment->regionClass.New({});
  if (made.IsEmpty()) return env.Undefined();  // terminated meanwhile
  RegionObject* self = Unwrap(made);
  self->isShared_ = true;
  if (onFault.IsFunction()) {
    self->faults_ = std::make_shared<FaultSink>();
    self->faults_->region = region;
    keepCallback(made, "onFault", onFault, *self->faults_);
    region->listenForFaults(teller(environment->bridge, self->faults_));
  }
  // What this environment began reads and fills its buffers, which go with it.
  environment->onTeardown(self, Environment::Kind::region,
                          [weak = std::weak_ptr<Region>(region), listens = onFault.IsFunction()] {
                            const auto alive = weak.lock();
                            if (!alive) return;
                            if (listens) alive->listenForFaults(nullptr);
                            alive->waitForJobs();
                          });
  self->become(environment, std::move(region));
  return made;
}

std::function<void()> RegionObject::teller(const std::shared_ptr<Bridge>& bridge,
                                           const std::shared_ptr<FaultSink>& sink) {
  return teller(bridge, sink, [](Napi::Env env, const Napi::Function& callback, Region& region) {
    const std::vector<uint32_t> chunks = region.waiting().takeFaults();
    if (!chunks.empty()) callback.Call({makeWords(env, chunks.data(), chunks.size())});
  });
}

std::function<void()> RegionObject::teller(const std::shared_ptr<Bridge>& bridge,
                                           const std::shared_ptr<FaultSink>& sink, Tell tell) {
  // Weak: this closure may be freed on any thread, and the sink holds a JS reference.
  return [bridge, tell, weak = std::weak_ptr<FaultSink>(sink)] {
    bridge->post([tell, weak](Napi::Env posted) {
      const auto sink = weak.lock();
      const auto region = sink ? sink->region.lock() : nullptr;
      if (!region || sink->callback.IsEmpty()) return;
      // Empty once the object is collected: nobody is left to tell.
      const Napi::Function callback = sink->callback.Value();
      if (!callback.IsEmpty()) tell(posted, callback, *region);
    });
  };
}

void RegionObject::keepCallback(Napi::Object made, const char* name, const Napi::Value& callback, FaultSink& sink) {
  if (!callback.IsFunction()) return;
  made.DefineProperty(Napi::PropertyDescriptor::Value(name, callback, napi_default));
  sink.callback = Napi::Weak(callback.As<Napi::Function>());
}

void RegionObject::unshare() {
  if (!region_) return;
  if (faults_) region_->listenForFaults(nullptr);
  environment_->forget(this);
  region_.reset();
}

void RegionObject::become(const std::shared_ptr<Environment>& environment, std::shared_ptr<Region> region) {
  environment_ = environment;
  bridge_ = environment->bridge;
  bytes_ = region->bytes();
  chunkBytes_ = region->chunkBytes();
  chunkCount_ = region->chunkCount();
  region_ = std::move(region);
}

RegionObject* RegionObject::from(const Napi::Value& value) {
  if (!value.IsObject()) return nullptr;
  const Napi::Object object = value.As<Napi::Object>();
  if (!object.InstanceOf(Environment::of(value.Env())->regionClass.Value())) return nullptr;
  return Unwrap(object);
}

RegionObject::RegionObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<RegionObject>(info) {}

RegionObject::~RegionObject() {
  if (isShared_) unshare();
  if (environment_) environment_->forget(this);
}

Region* RegionObject::openOrThrow(Napi::Env env) {
  if (region_) return region_.get();
  if (bridge_) {
    bridge_->error(env, Failure::named("ESHUTDOWN", "the region is closed")).ThrowAsJavaScriptException();
  } else {
    Napi::TypeError::New(env, "make regions with openRegion()").ThrowAsJavaScriptException();
  }
  return nullptr;
}

Napi::Value RegionObject::rejectClosed(Napi::Env env) {
  if (!bridge_) return openOrThrow(env), env.Undefined();
  return bridge_->rejected(env, Failure::named("ESHUTDOWN", "the region is closed"));
}

Napi::Value RegionObject::read(const Napi::CallbackInfo& info) { return startRead(info, true); }
Napi::Value RegionObject::hash(const Napi::CallbackInfo& info) { return startRead(info, false); }

Napi::Value RegionObject::startRead(const Napi::CallbackInfo& info, bool withBytes) {
  const Napi::Env env = info.Env();
  Region* region = region_.get();
  if (!region) return rejectClosed(env);
  Arguments arguments(env);
  const auto indexes = arguments.words(info[0], "indexes");
  const auto into = withBytes ? arguments.bytes(info[1], "into") : BytesArgument{};
  if (withBytes && arguments.ok() && into.length / chunkBytes_ < indexes.length) {
    arguments.refuse("into must have indexes.length * chunkBytes bytes");
  }
  for (size_t i = 0; arguments.ok() && i < indexes.length; i++) {
    if (indexes.data[i] >= chunkCount_) arguments.refuse("an index is not below chunkCount");
  }
  if (!arguments.ok()) return env.Undefined();

  auto job = std::make_shared<Region::ReadJob>();
  job->chunks.assign(indexes.data, indexes.data + indexes.length);
  job->into = into.data;
  const auto pending = bridge_->open(env, {info.This(), withBytes ? info[1] : env.Undefined()});
  region->read(job, [bridge = bridge_, job, id = pending.id] {
    if (job->failure) return bridge->reject(id, job->failure);
    bridge->resolve(id, [job](Napi::Env settling) {
      Napi::Object result = Napi::Object::New(settling);
      result.Set("hashes", makeBytes(settling, job->hashes.data(), job->hashes.size()));
      result.Set("zero", makeBytes(settling, job->zero.data(), job->zero.size()));
      return result;
    });
  });
  return pending.promise;
}

Napi::Value RegionObject::store(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Region* region = region_.get();
  if (!region) return rejectClosed(env);
  Arguments arguments(env);
  const Napi::Object request = arguments.object(info[0], "request");
  if (!arguments.ok()) return env.Undefined();
  const Napi::Value bytesValue = request.Get("bytes");
  const Napi::Value hashesValue = request.Get("hashes");
  const auto indexes = arguments.words(request.Get("indexes"), "indexes");
  const auto offsets = arguments.words(request.Get("offsets"), "offsets");
  const auto bytes = arguments.bytes(bytesValue, "bytes");
  const auto hashes = arguments.bytes(hashesValue, "hashes");
  const bool ifAbsent = arguments.boolean(request.Get("ifAbsent"), "ifAbsent");
  if (arguments.ok() && offsets.length != indexes.length) {
    arguments.refuse("offsets must be as long as indexes");
  }
  // None: the bytes are taken as they are.
  if (arguments.ok() && hashes.length > 0 && hashes.length / 32 < indexes.length) {
    arguments.refuse("hashes must have 32 bytes per index");
  }
  for (size_t i = 0; arguments.ok() && i < indexes.length; i++) {
    if (indexes.data[i] >= chunkCount_) {
      arguments.refuse("an index is not below chunkCount");
    } else if (offsets.data[i] != Region::kZeroChunk &&
               uint64_t{offsets.data[i]} + region->chunkLength(indexes.data[i]) > bytes.length) {
      arguments.refuse("a chunk ends past the end of bytes");
    }
  }
  if (!arguments.ok()) return env.Undefined();

  auto job = std::make_shared<Region::StoreJob>();
  job->chunks.assign(indexes.data, indexes.data + indexes.length);
  job->offsets.assign(offsets.data, offsets.data + offsets.length);
  job->bytes = bytes.data;
  job->hashes = hashes.length > 0 ? hashes.data : nullptr;
  job->ifAbsent = ifAbsent;
  const auto pending = bridge_->open(env, {info.This(), bytesValue, hashesValue});
  region->store(job, [bridge = bridge_, job, id = pending.id] {
    if (job->failure) return bridge->reject(id, job->failure);
    bridge->resolve(id, [job](Napi::Env settling) {
      return makeBytes(settling, job->outcomes.data(), job->outcomes.size());
    });
  });
  return pending.promise;
}

Napi::Value RegionObject::sync(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Region* region = region_.get();
  if (!region) return rejectClosed(env);
  const auto pending = bridge_->open(env, {info.This()});
  region->sync([bridge = bridge_, id = pending.id](Failure failure) {
    if (failure) return bridge->reject(id, std::move(failure));
    bridge->resolve(id);
  });
  return pending.promise;
}

Napi::Value RegionObject::checkpoint(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Region* region = region_.get();
  if (!region) return rejectClosed(env);
  const auto pending = bridge_->open(env, {info.This()});
  region->checkpoint([bridge = bridge_, id = pending.id](Failure failure) {
    if (failure) return bridge->reject(id, std::move(failure));
    bridge->resolve(id);
  });
  return pending.promise;
}

Napi::Value RegionObject::storedHashes(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Region* region = openOrThrow(env);
  if (!region) return env.Undefined();
  std::vector<uint8_t> hashes(size_t{chunkCount_} * 32);
  if (region->state()) region->state()->copyHashes(hashes.data());
  return makeBytes(env, hashes.data(), hashes.size());
}

Napi::Value RegionObject::descriptor(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), region_ ? region_->descriptor() : -1);
}

Napi::Value RegionObject::restored(const Napi::CallbackInfo& info) {
  const Restored restored = region_ && region_->state() ? region_->state()->restored() : Restored::none;
  const char* name = restored == Restored::exact        ? "exact"
                     : restored == Restored::checkpoint ? "checkpoint"
                                                        : "none";
  return Napi::String::New(info.Env(), name);
}

Napi::Value RegionObject::bitmap(Napi::Env env, const std::function<void(uint8_t*)>& fill) {
  std::vector<uint8_t> out(region_->present().bytes());
  fill(out.data());
  return makeBytes(env, out.data(), out.size());
}

bool RegionObject::bitmapArgument(const Napi::CallbackInfo& info, const uint8_t*& out) {
  Arguments arguments(info.Env());
  const auto bytes = arguments.bytes(info[0], "bitmap");
  if (arguments.ok() && bytes.length != region_->present().bytes()) {
    arguments.refuse("bitmap must have ceil(chunkCount / 8) bytes");
  }
  out = bytes.data;
  return arguments.ok();
}

Napi::Value RegionObject::takeDirty(const Napi::CallbackInfo& info) {
  Region* region = openOrThrow(info.Env());
  if (!region) return info.Env().Undefined();
  return bitmap(info.Env(), [&](uint8_t* out) { region->dirty().takeTo(out); });
}

void RegionObject::mergeDirty(const Napi::CallbackInfo& info) {
  Region* region = openOrThrow(info.Env());
  const uint8_t* bits = nullptr;
  if (region && bitmapArgument(info, bits)) region->dirty().merge(bits);
}

Napi::Value RegionObject::presence(const Napi::CallbackInfo& info) {
  Region* region = openOrThrow(info.Env());
  if (!region) return info.Env().Undefined();
  return bitmap(info.Env(), [&](uint8_t* out) { region->present().copyTo(out); });
}

void RegionObject::setPresent(const Napi::CallbackInfo& info) {
  Region* region = openOrThrow(info.Env());
  const uint8_t* bits = nullptr;
  if (region && bitmapArgument(info, bits)) region->setPresent(bits);
}

Napi::Value RegionObject::gate(const Napi::CallbackInfo& info) {
  const Gate now = region_ ? region_->gate() : Gate::closed;
  for (const GateName& entry : kGates) {
    if (entry.gate == now) return Napi::String::New(info.Env(), entry.name);
  }
  return info.Env().Undefined();
}

void RegionObject::setGate(const Napi::CallbackInfo& info) {
  Region* region = openOrThrow(info.Env());
  if (!region) return;
  Arguments arguments(info.Env());
  const Gate gate = gateArgument(arguments, info[0]);
  if (arguments.ok()) region->setGate(gate);
}

Napi::Value RegionObject::quiesce(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Region* region = region_.get();
  if (!region) return rejectClosed(env);
  const auto pending = bridge_->open(env, {info.This()});
  region->inFlight().quiesce([bridge = bridge_, id = pending.id] { bridge->resolve(id); });
  return pending.promise;
}

void RegionObject::retryFaults(const Napi::CallbackInfo& info) {
  Region* region = openOrThrow(info.Env());
  if (region) region->waiting().retryFaults();
}

void RegionObject::failParked(const Napi::CallbackInfo& info) {
  Region* region = openOrThrow(info.Env());
  if (!region) return;
  Arguments arguments(info.Env());
  const std::string name = arguments.string(info[0], "errno");
  const int error = errnoNumber(name);
  if (arguments.ok() && error == 0) arguments.refuse("errno must be a name such as EIO");
  if (arguments.ok()) region->waiting().failAll(error);
}

Napi::Value RegionObject::stats(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Region* region = openOrThrow(env);
  if (!region) return env.Undefined();
  const RegionStats stats = region->stats();
  Napi::Object out = Napi::Object::New(env);
  const auto set = [&](const char* name, double value) { out.Set(name, Napi::Number::New(env, value)); };
  set("reads", static_cast<double>(stats.reads));
  set("writes", static_cast<double>(stats.writes));
  set("syncs", static_cast<double>(stats.syncs));
  set("misses", static_cast<double>(stats.misses));
  set("bytesRead", static_cast<double>(stats.bytesRead));
  set("bytesWritten", static_cast<double>(stats.bytesWritten));
  set("parked", static_cast<double>(stats.parked));
  set("presentChunks", static_cast<double>(stats.presentChunks));
  set("dirtyChunks", static_cast<double>(stats.dirtyChunks));
  set("firstServedAtMs", stats.firstServedAtMs);
  return out;
}

Napi::Value RegionObject::flushMappings(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!region_) return rejectClosed(env);
  return runLater(bridge_, info.This(), "memferry-uffd-f", [region = region_] {
    const int error = region->flushMappings();
    return error ? Failure::system(error, "ioctl") : Failure{};
  });
}

void RegionObject::rekey(const Napi::CallbackInfo& info) {
  Region* region = openOrThrow(info.Env());
  if (!region) return;
  Arguments arguments(info.Env());
  const auto key = arguments.bytes(info[0], "key");
  if (arguments.ok() && key.length != 32) arguments.refuse("key must have 32 bytes");
  if (arguments.ok()) region->rekey(key.data);
}

Napi::Value RegionObject::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!bridge_) return openOrThrow(env), env.Undefined();
  if (exports_ > 0 || (region_ && !isShared_ && region_->isExported())) {
    return bridge_->rejected(env, Failure::named("EBUSY", "the region is still exported; unmount first"));
  }
  const auto pending = bridge_->open(env, {info.This()});
  if (isShared_) {
    unshare();
    bridge_->resolve(pending.id);
    return pending.promise;
  }
  // Joining waits for a disk, so another thread does it. It owns nothing of JS, and a second close()
  // (the region is null then) waits for nothing.
  std::thread([region = std::move(region_), bridge = bridge_, id = pending.id]() mutable {
    becomeHelperThread("memferry-close");
    if (region) region->shutdown();
    region.reset();
    bridge->resolve(id);
  }).detach();
  region_.reset();
  return pending.promise;
}

Napi::Value RegionObject::bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(bytes_));
}

Napi::Value RegionObject::chunkBytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), chunkBytes_);
}

Napi::Value RegionObject::id(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), region_ ? static_cast<double>(region_->id()) : 0);
}

Napi::Value RegionObject::chunkCount(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), chunkCount_);
}

}  // namespace memferry
