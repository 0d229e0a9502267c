#include "nbd_device_object.h"

#include <thread>
#include <utility>

#include "arguments.h"
#include "region_object.h"
#include "thread_name.h"

namespace memferry {
namespace {

constexpr uint64_t kMaxIndex = 1 << 16;
constexpr uint64_t kMaxConnections = 64;
constexpr uint64_t kMaxSeconds = 365 * 86'400;

}  // namespace

Napi::Function NbdDeviceObject::define(Napi::Env env) {
  return DefineClass(env, "NbdDevice",
                     {
                         InstanceAccessor<&NbdDeviceObject::path>("path", napi_enumerable),
                         InstanceAccessor<&NbdDeviceObject::via>("via", napi_enumerable),
                         InstanceMethod<&NbdDeviceObject::detach>("detach"),
                     });
}

Napi::Value NbdDeviceObject::attach(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  RegionObject* region = RegionObject::from(info[0]);
  if (!region) arguments.refuse("region must come from openRegion()");
  const Napi::Object given = arguments.object(info[1], "options");
  if (!arguments.ok()) return env.Undefined();
  NbdDevice::Options options;
  const Napi::Value index = given.Get("index");
  if (!index.IsUndefined()) options.index = static_cast<int>(arguments.integer(index, "index", 0, kMaxIndex));
  options.again = arguments.boolean(given.Get("again"), "again", false);
  options.readOnly = arguments.boolean(given.Get("readOnly"), "readOnly", false);
  options.identifier = arguments.string(given.Get("identifier"), "identifier");
  options.connections =
      static_cast<unsigned>(arguments.integer(given.Get("connections"), "connections", 1, kMaxConnections, 1));
  options.timeoutSeconds = arguments.integer(given.Get("timeoutSeconds"), "timeoutSeconds", 0, kMaxSeconds, 10);
  options.deadSeconds = arguments.integer(given.Get("deadSeconds"), "deadSeconds", 0, kMaxSeconds, 60);
  const Napi::Value via = given.Get("via");
  if (!via.IsUndefined()) {
    const std::string text = arguments.string(via, "via");
    if (text != "auto" && text != "ioctl") arguments.refuse("via must be auto or ioctl");
    options.byIoctl = text == "ioctl";
  }
  if (options.again && options.index < 0) arguments.refuse("again needs an index");
  if (!arguments.ok()) return env.Undefined();

  const auto& environment = Environment::of(env);
  if (!region->region()) {
    return environment->bridge->rejected(env, Failure::named("ESHUTDOWN", "the region is closed"));
  }
  options.region = region->region();
  options.readOnly = options.readOnly || options.region->readOnly();
  // Exported from now on: nobody may close it while the kernel is told.
  region->exported(+1);
  const auto pending = environment->bridge->open(env, {info[0]});
  std::thread([environment, region, options = std::move(options), id = pending.id]() mutable {
    becomeHelperThread("memferry-nbd-at");
    Failure failure;
    std::shared_ptr<NbdDevice> device = NbdDevice::attach(options, failure);
    options.region.reset();
    if (!device) {
      environment->bridge->post([region](Napi::Env) { region->exported(-1); });
      return environment->bridge->reject(id, std::move(failure));
    }
    // Kept by the pending promise until here: `region` is alive.
    environment->bridge->resolve(id, [environment, region, device](Napi::Env settling) -> Napi::Value {
      const Napi::Object made = environment->deviceClass.New({});
      if (made.IsEmpty()) return settling.Undefined();  // terminated meanwhile
      NbdDeviceObject* self = Unwrap(made);
      self->environment_ = environment;
      self->bridge_ = environment->bridge;
      self->device_ = device;
      self->region_ = Napi::Persistent(region->Value());
      environment->onTeardown(self, Environment::Kind::mount, [device] { device->detach(false); });
      self->Ref();
      return made;
    });
  }).detach();
  return pending.promise;
}

Napi::Value NbdDeviceObject::disconnect(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const int index = static_cast<int>(arguments.integer(info[0], "index", 0, kMaxIndex));
  if (!arguments.ok()) return env.Undefined();
  const auto bridge = Environment::of(env)->bridge;
  const auto pending = bridge->open(env, {});
  std::thread([bridge, index, id = pending.id] {
    becomeHelperThread("memferry-nbd-de");
    NbdNetlink netlink;
    Failure failure = netlink.open();
    if (!failure) failure = netlink.disconnect(index);
    if (failure) return bridge->reject(id, std::move(failure));
    bridge->resolve(id);
  }).detach();
  return pending.promise;
}

NbdDeviceObject::NbdDeviceObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NbdDeviceObject>(info) {}

NbdDeviceObject::~NbdDeviceObject() {
  if (environment_) environment_->forget(this);
}

Napi::Value NbdDeviceObject::path(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), device_ ? "/dev/nbd" + std::to_string(device_->index()) : "");
}

Napi::Value NbdDeviceObject::via(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), device_ && device_->isByIoctl() ? "ioctl" : "netlink");
}

Napi::Value NbdDeviceObject::detach(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!bridge_) {
    Napi::TypeError::New(env, "make devices with attachNbd()").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const auto pending = bridge_->open(env, {info.This()});
  if (!device_) {
    bridge_->resolve(pending.id);
    return pending.promise;
  }
  std::thread([this, device = device_, bridge = bridge_, id = pending.id] {
    becomeHelperThread("memferry-nbd-de");
    Failure failure = device->detach(true);
    // Back on the JS thread `this` is alive: the promise that has yet to settle refers to it.
    bridge->post([this](Napi::Env) { release(); });
    if (failure) return bridge->reject(id, std::move(failure));
    bridge->resolve(id);
  }).detach();
  return pending.promise;
}

void NbdDeviceObject::release() {
  if (!device_) return;
  device_.reset();
  environment_->forget(this);
  if (RegionObject* object = RegionObject::from(region_.Value())) object->exported(-1);
  region_.Reset();
  Unref();
}

}  // namespace memferry
