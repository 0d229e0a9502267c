// The addon's exports, and what happens when an environment begins and ends.
#include <napi.h>

#include <memory>

#include "arguments.h"
#include "bridge.h"
#include "chunk_hash.h"
#include "descriptors.h"
#include "direct_object.h"
#include "environment.h"
#include "mapping_object.h"
#include "mount_object.h"
#include "nbd_device_object.h"
#include "nbd_object.h"
#include "region_object.h"
#include "socket_options.h"
#include "uffd_object.h"
#include "values.h"

namespace memferry {
namespace {

// initialize(NativeError): once, before anything else. Errors are made by a class of ours that JS owns.
void initialize(const Napi::CallbackInfo& info) {
  const auto& environment = Environment::of(info.Env());
  if (environment->bridge) return;
  Arguments arguments(info.Env());
  if (!info[0].IsFunction()) return arguments.refuse("initialize takes the error class");
  environment->bridge = Bridge::create(info.Env(), info[0].As<Napi::Function>());
  if (!environment->bridge) return arguments.refuse("this runtime has no thread-safe functions");
}

bool initialized(const Napi::CallbackInfo& info) {
  if (Environment::of(info.Env())->bridge) return true;
  Napi::TypeError::New(info.Env(), "initialize() has not been called").ThrowAsJavaScriptException();
  return false;
}

Napi::Value openRegion(const Napi::CallbackInfo& info) {
  return initialized(info) ? RegionObject::open(info) : info.Env().Undefined();
}

Napi::Value mountFuse(const Napi::CallbackInfo& info) {
  return initialized(info) ? MountObject::mount(info) : info.Env().Undefined();
}

Napi::Value serveNbd(const Napi::CallbackInfo& info) {
  return initialized(info) ? NbdObject::serve(info) : info.Env().Undefined();
}

Napi::Value attachNbd(const Napi::CallbackInfo& info) {
  return initialized(info) ? NbdDeviceObject::attach(info) : info.Env().Undefined();
}

Napi::Value disconnectNbd(const Napi::CallbackInfo& info) {
  return initialized(info) ? NbdDeviceObject::disconnect(info) : info.Env().Undefined();
}

Napi::Value serveUffd(const Napi::CallbackInfo& info) {
  return initialized(info) ? UffdObject::serve(info) : info.Env().Undefined();
}

Napi::Value mapRegion(const Napi::CallbackInfo& info) {
  return initialized(info) ? MappingObject::map(info) : info.Env().Undefined();
}

Napi::Value shareRegion(const Napi::CallbackInfo& info) {
  return initialized(info) ? RegionObject::share(info) : info.Env().Undefined();
}

Napi::Value openDirectSocket(const Napi::CallbackInfo& info) {
  return initialized(info) ? DirectObject::open(info) : info.Env().Undefined();
}

Napi::Value adopt(const Napi::CallbackInfo& info) {
  return initialized(info) ? adoptDescriptor(info) : info.Env().Undefined();
}

Napi::Value hash(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const auto data = arguments.bytes(info[0], "data");
  const bool keyed = !info[1].IsUndefined();
  const auto key = keyed ? arguments.bytes(info[1], "key") : BytesArgument{};
  if (arguments.ok() && keyed && key.length != 32) arguments.refuse("key must have 32 bytes");
  if (!arguments.ok()) return env.Undefined();
  Digest out;
  blake3(data.data, data.length, keyed ? key.data : nullptr, out.data());
  return makeBytes(env, out.data(), out.size());
}

Napi::Object start(Napi::Env env, Napi::Object exports) {
  auto* environment = new std::shared_ptr<Environment>(Environment::create());
  env.SetInstanceData<std::shared_ptr<Environment>>(environment);
  // The hook holds its own reference: whether it runs before the instance data is freed is up to the
  // runtime.
  env.AddCleanupHook([held = *environment] { held->teardown(); });
  (*environment)->regionClass = Napi::Persistent(RegionObject::define(env));
  (*environment)->mountClass = Napi::Persistent(MountObject::define(env));
  (*environment)->nbdClass = Napi::Persistent(NbdObject::define(env));
  (*environment)->deviceClass = Napi::Persistent(NbdDeviceObject::define(env));
  (*environment)->uffdClass = Napi::Persistent(UffdObject::define(env));
  (*environment)->mappingClass = Napi::Persistent(MappingObject::define(env));
  (*environment)->directClass = Napi::Persistent(DirectObject::define(env));

  exports.Set("initialize", Napi::Function::New<initialize>(env, "initialize"));
  exports.Set("openRegion", Napi::Function::New<openRegion>(env, "openRegion"));
  exports.Set("mountFuse", Napi::Function::New<mountFuse>(env, "mountFuse"));
  exports.Set("serveNbd", Napi::Function::New<serveNbd>(env, "serveNbd"));
  exports.Set("attachNbd", Napi::Function::New<attachNbd>(env, "attachNbd"));
  exports.Set("disconnectNbd", Napi::Function::New<disconnectNbd>(env, "disconnectNbd"));
  exports.Set("serveUffd", Napi::Function::New<serveUffd>(env, "serveUffd"));
  exports.Set("mapRegion", Napi::Function::New<mapRegion>(env, "mapRegion"));
  exports.Set("shareRegion", Napi::Function::New<shareRegion>(env, "shareRegion"));
  exports.Set("openDirectSocket", Napi::Function::New<openDirectSocket>(env, "openDirectSocket"));
  exports.Set("probeUffd", Napi::Function::New<UffdObject::probe>(env, "probeUffd"));
  exports.Set("probeFuse", Napi::Function::New<MountObject::probe>(env, "probeFuse"));
  exports.Set("adoptDescriptor", Napi::Function::New<adopt>(env, "adoptDescriptor"));
  exports.Set("closeDescriptor", Napi::Function::New<closeDescriptor>(env, "closeDescriptor"));
  exports.Set("setCongestionControl",
              Napi::Function::New<setCongestionControl>(env, "setCongestionControl"));
  exports.Set("setUnsentBytesMax",
              Napi::Function::New<setUnsentBytesMax>(env, "setUnsentBytesMax"));
  exports.Set("setSocketBuffers", Napi::Function::New<setSocketBuffers>(env, "setSocketBuffers"));
  exports.Set("socketFacts", Napi::Function::New<socketFacts>(env, "socketFacts"));
  exports.Set("datagramSockets", Napi::Function::New<datagramSockets>(env, "datagramSockets"));
  exports.Set("blake3", Napi::Function::New<hash>(env, "blake3"));
  return exports;
}

NODE_API_MODULE(memferry, start)

}  // namespace
}  // namespace memferry
