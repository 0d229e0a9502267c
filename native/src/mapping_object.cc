#include "mapping_object.h"

#include <utility>

#include "arguments.h"
#include "ending.h"
#include "region_object.h"

namespace memferry {

namespace {

// As on kernels before 6.7.
bool isForcedSync(Arguments& arguments, const Napi::Object& given) {
  const Napi::Value tracking = given.Get("tracking");
  if (tracking.IsUndefined()) return false;
  const std::string text = arguments.string(tracking, "tracking");
  if (text != "sync" && text != "auto") arguments.refuse("tracking must be auto or sync");
  return text == "sync";
}

}  // namespace

Napi::Function MappingObject::define(Napi::Env env) {
  return DefineClass(env, "RegionMapping",
                     {
                         InstanceAccessor<&MappingObject::memory>("memory", napi_enumerable),
                         InstanceAccessor<&MappingObject::tracking>("tracking", napi_enumerable),
                         InstanceMethod<&MappingObject::flush>("flush"),
                         InstanceMethod<&MappingObject::unmap>("unmap"),
                     });
}

Napi::Value MappingObject::map(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  RegionObject* region = RegionObject::from(info[0]);
  if (!region) arguments.refuse("region must come from openRegion()");
  const bool forceSync = info[1].IsObject() && isForcedSync(arguments, info[1].As<Napi::Object>());
  if (!arguments.ok()) return env.Undefined();
  const auto& environment = Environment::of(env);
  Failure failure;
  std::shared_ptr<RegionMapping> mapping;
  if (region->region()) {
    mapping = RegionMapping::open(region->region(), forceSync, failure);
  } else {
    failure = Failure::named("ESHUTDOWN", "the region is closed");
  }
  if (!mapping) {
    environment->bridge->error(env, failure).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const Napi::Object made = environment->mappingClass.New({});
  if (made.IsEmpty()) return env.Undefined();  // terminated meanwhile
  MappingObject* self = Unwrap(made);
  // The memory is unmapped when neither we nor JS have it any more.
  auto* held = new std::shared_ptr<RegionMapping>(mapping);
  const Napi::ArrayBuffer memory = Napi::ArrayBuffer::New(
      env, mapping->data(), mapping->bytes(),
      [](Napi::BasicEnv, void*, std::shared_ptr<RegionMapping>* kept) { delete kept; }, held);
  if (memory.IsEmpty()) {
    delete held;
    return env.Undefined();
  }
  self->environment_ = environment;
  self->bridge_ = environment->bridge;
  self->tracking_ = mapping->tracking();
  self->memory_ = Napi::Persistent(memory.As<Napi::Object>());
  self->region_ = Napi::Persistent(info[0].As<Napi::Object>());
  region->exported(+1);
  environment->onTeardown(self, Environment::Kind::mount, [mapping] { mapping->stop(); });
  self->mapping_ = std::move(mapping);
  self->Ref();
  return made;
}

MappingObject::MappingObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MappingObject>(info) {}

MappingObject::~MappingObject() {
  if (environment_) environment_->forget(this);
}

Napi::Value MappingObject::memory(const Napi::CallbackInfo& info) {
  if (memory_.IsEmpty()) return info.Env().Undefined();
  return memory_.Value();
}

Napi::Value MappingObject::tracking(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), tracking_ == UffdSpace::Tracking::async ? "async" : "sync");
}

Napi::Value MappingObject::flush(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!bridge_) {
    Napi::TypeError::New(env, "make mappings with mapRegion()").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  if (!mapping_) return bridge_->rejected(env, Failure::named("ENOTCONN", "the region is not mapped any more"));
  return runLater(bridge_, info.This(), "memferry-uffd-f", [mapping = mapping_] {
    const int error = mapping->flush();
    return error ? Failure::system(error, "ioctl") : Failure{};
  });
}

Napi::Value MappingObject::unmap(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!bridge_) {
    Napi::TypeError::New(env, "make mappings with mapRegion()").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  // JS must not have it once nobody answers its faults.
  if (!detach()) return bridge_->rejected(env, Failure::named("EBUSY", "the memory cannot be taken from this runtime"));
  return endLater(
      bridge_, info.This(), "memferry-uffd-s",
      [mapping = mapping_] {
        if (!mapping) return;
        mapping->flush();  // best effort: what a gate holds back is marked by nobody any more
        mapping->stop();
      },
      [this] { release(); });
}

bool MappingObject::detach() {
  if (memory_.IsEmpty()) return true;
  Napi::ArrayBuffer memory = memory_.Value().As<Napi::ArrayBuffer>();
  if (!memory.IsDetached()) memory.Detach();
  if (!memory.IsDetached()) return false;
  memory_.Reset();
  return true;
}

void MappingObject::release() {
  if (!mapping_) return;
  mapping_.reset();
  environment_->forget(this);
  if (RegionObject* object = RegionObject::from(region_.Value())) object->exported(-1);
  region_.Reset();
  Unref();
}

}  // namespace memferry
