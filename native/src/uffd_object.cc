#include "uffd_object.h"

#include <utility>

#include "arguments.h"
#include "ending.h"
#include "region_object.h"
#include "uffd_wire.h"

namespace memferry {

Napi::Function UffdObject::define(Napi::Env env) {
  return DefineClass(env, "UffdServer",
                     {
                         InstanceAccessor<&UffdObject::path>("path", napi_enumerable),
                         InstanceAccessor<&UffdObject::clients>("clients", napi_enumerable),
                         InstanceAccessor<&UffdObject::refused>("refused", napi_enumerable),
                         InstanceMethod<&UffdObject::add>("add"),
                         InstanceMethod<&UffdObject::flush>("flush"),
                         InstanceMethod<&UffdObject::stop>("stop"),
                     });
}

Napi::Value UffdObject::probe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  uint64_t features = 0;
  const Failure failure = Userfault::probe(features);
  Napi::Object out = Napi::Object::New(env);
  out.Set("available", Napi::Boolean::New(env, !failure));
  if (failure) {
    out.Set("reason", Napi::String::New(env, failure.message));
    return out;
  }
  out.Set("tracking", Napi::String::New(env, features & uffd::kWpAsync ? "async" : "sync"));
  const uint64_t shared = uffd::kMissingShmem | uffd::kMinorShmem | uffd::kWpShmem;
  out.Set("shared", Napi::Boolean::New(env, (features & shared) == shared));
  return out;
}

Napi::Value UffdObject::serve(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const Napi::Object given = arguments.object(info[0], "options");
  if (!arguments.ok()) return env.Undefined();
  std::string path = arguments.string(given.Get("path"), "path");
  if (arguments.ok() && (path.empty() || path.find('\0') != std::string::npos)) {
    arguments.refuse("path must not be empty or contain NUL");
  }
  if (!arguments.ok()) return env.Undefined();
  const auto& environment = Environment::of(env);
  Failure failure;
  std::shared_ptr<UffdServer> server = UffdServer::listen(std::move(path), failure);
  if (!server) {
    environment->bridge->error(env, failure).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const Napi::Object made = environment->uffdClass.New({});
  if (made.IsEmpty()) return env.Undefined();  // terminated meanwhile; `server` stops as it goes
  UffdObject* self = Unwrap(made);
  self->environment_ = environment;
  self->bridge_ = environment->bridge;
  environment->onTeardown(self, Environment::Kind::mount, [server] { server->stop(); });
  self->server_ = std::move(server);
  self->Ref();
  return made;
}

UffdObject::UffdObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<UffdObject>(info) {}

UffdObject::~UffdObject() {
  if (environment_) environment_->forget(this);
}

void UffdObject::add(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  arguments.string(info[0], "name");
  RegionObject* region = RegionObject::from(info[1]);
  if (!region) arguments.refuse("region must come from openRegion()");
  if (!bridge_) arguments.refuse("make servers with serveUffd()");
  if (!arguments.ok()) return;
  Failure failure;
  if (!server_) {
    failure = Failure::named("ENOTCONN", "the server has stopped");
  } else if (!region->region()) {
    failure = Failure::named("ESHUTDOWN", "the region is closed");
  } else if (region->region()->readOnly()) {
    failure = Failure::named("EROFS", "memory cannot be shown for reading only: open the region for writing");
  } else {
    failure = server_->add(region->region());
  }
  if (failure) {
    bridge_->error(env, failure).ThrowAsJavaScriptException();
    return;
  }
  region->exported(+1);
  region_ = Napi::Persistent(info[1].As<Napi::Object>());
}

Napi::Value UffdObject::path(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), server_ ? server_->path() : std::string());
}

Napi::Value UffdObject::clients(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), server_ ? static_cast<double>(server_->clients()) : 0);
}

Napi::Value UffdObject::refused(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), server_ ? static_cast<double>(server_->refused()) : 0);
}

Napi::Value UffdObject::flush(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!bridge_) {
    Napi::TypeError::New(env, "make servers with serveUffd()").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  if (!server_) return bridge_->rejected(env, Failure::named("ENOTCONN", "the server has stopped"));
  return runLater(bridge_, info.This(), "memferry-uffd-f", [server = server_] { return server->flush(); });
}

Napi::Value UffdObject::stop(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!bridge_) {
    Napi::TypeError::New(env, "make servers with serveUffd()").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  return endLater(bridge_, info.This(), "memferry-uffd-s", [server = server_] { if (server) server->stop(); },
                  [this] { release(); });
}

void UffdObject::release() {
  if (!server_) return;
  server_.reset();
  environment_->forget(this);
  if (!region_.IsEmpty()) {
    if (RegionObject* object = RegionObject::from(region_.Value())) object->exported(-1);
    region_.Reset();
  }
  Unref();
}

}  // namespace memferry
