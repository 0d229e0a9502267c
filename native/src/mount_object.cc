#include "mount_object.h"

#include <unistd.h>

#include <chrono>
#include <climits>
#include <utility>

#include "arguments.h"
#include "ending.h"
#include "region_object.h"

namespace memferry {
namespace {

constexpr uint64_t kMaxThreads = 64;
constexpr uint64_t kMaxReadAheadBytes = 64 << 20;
// For writing back what mappings still hold. At the end of a process there is less time.
constexpr std::chrono::milliseconds kUnmountPatience{10'000};
constexpr std::chrono::milliseconds kExitPatience{2'000};

}  // namespace

Napi::Function MountObject::define(Napi::Env env) {
  return DefineClass(env, "FuseMount",
                     {
                         InstanceAccessor<&MountObject::directory>("directory", napi_enumerable),
                         InstanceMethod<&MountObject::add>("add"),
                         InstanceMethod<&MountObject::flush>("flush"),
                         InstanceMethod<&MountObject::invalidate>("invalidate"),
                         InstanceMethod<&MountObject::setReadAhead>("setReadAhead"),
                         InstanceMethod<&MountObject::unmount>("unmount"),
                         InstanceMethod<&MountObject::channels>("channels"),
                         InstanceMethod<&MountObject::serve>("serve"),
                     });
}

Napi::Value MountObject::probe(const Napi::CallbackInfo& info) {
  const FuseProbe probe = probeFuse();
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("available", Napi::Boolean::New(info.Env(), probe.available));
  if (!probe.reason.empty()) out.Set("reason", Napi::String::New(info.Env(), probe.reason));
  if (!probe.remedy.empty()) out.Set("remedy", Napi::String::New(info.Env(), probe.remedy));
  return out;
}

Napi::Value MountObject::mount(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const Napi::Object given = arguments.object(info[0], "options");
  if (!arguments.ok()) return env.Undefined();
  FuseServer::Options options;
  options.directory = arguments.string(given.Get("directory"), "directory");
  if (arguments.ok() && (options.directory.empty() || options.directory.find('\0') != std::string::npos)) {
    arguments.refuse("directory must not be empty or contain NUL");
  }
  options.threads = static_cast<unsigned>(arguments.integer(given.Get("threads"), "threads", 1, kMaxThreads, 2));
  options.readAheadBytes =
      arguments.integer(given.Get("readAheadBytes"), "readAheadBytes", 0, kMaxReadAheadBytes, 1 << 20);
  options.allowOther = arguments.boolean(given.Get("allowOther"), "allowOther", ::geteuid() == 0);
  options.warm = arguments.boolean(given.Get("warm"), "warm", true);
  const Napi::Value channels = given.Get("channels");
  if (channels.IsArray()) {
    const auto list = channels.As<Napi::Array>();
    if (list.Length() == 0 || list.Length() > kMaxThreads) arguments.refuse("channels must name 1 to 64 descriptors");
    for (uint32_t i = 0; arguments.ok() && i < list.Length(); i++) {
      options.channels.push_back(static_cast<int>(arguments.integer(list.Get(i), "channels", 0, INT_MAX)));
    }
    options.threads = static_cast<unsigned>(options.channels.size());
  } else if (!channels.IsUndefined()) {
    arguments.refuse("channels must be an array");
  }
  if (!arguments.ok()) return env.Undefined();

  const auto& environment = Environment::of(env);
  Failure failure;
  std::shared_ptr<FuseServer> server = FuseServer::mount(options, failure);
  if (!server) {
    environment->bridge->error(env, failure).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const Napi::Object made = environment->mountClass.New({});
  if (made.IsEmpty()) return env.Undefined();  // terminated meanwhile; `server` unmounts as it goes
  MountObject* self = Unwrap(made);
  self->environment_ = environment;
  self->bridge_ = environment->bridge;
  self->directory_ = server->directory();
  environment->onTeardown(self, Environment::Kind::mount, [server] { server->stop(kExitPatience); });
  self->server_ = std::move(server);
  self->Ref();
  return made;
}

MountObject::MountObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MountObject>(info) {}

MountObject::~MountObject() {
  if (environment_) environment_->forget(this);
}

void MountObject::add(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const std::string name = arguments.string(info[0], "name");
  RegionObject* region = RegionObject::from(info[1]);
  if (!region) arguments.refuse("region must come from openRegion()");
  uint64_t mode = 0600;
  bool readOnly = false;
  if (arguments.ok() && info[2].IsObject()) {
    const Napi::Object attributes = info[2].As<Napi::Object>();
    readOnly = arguments.boolean(attributes.Get("readOnly"), "attributes.readOnly", false);
    mode = arguments.integer(attributes.Get("mode"), "attributes.mode", 0, 0777, 0600);
  }
  if (!arguments.ok()) return;
  Failure failure;
  if (!server_) {
    if (!bridge_) return arguments.refuse("make mounts with mountFuse()");
    failure = Failure::named("ENOTCONN", "the mount is gone");
  } else if (!region->region()) {
    failure = Failure::named("ESHUTDOWN", "the region is closed");
  } else {
    readOnly = readOnly || region->region()->readOnly();
    if (readOnly) mode &= ~uint64_t{0222};
    failure = server_->add(name, region->region(), static_cast<uint32_t>(mode), readOnly);
  }
  if (failure) {
    bridge_->error(env, failure).ThrowAsJavaScriptException();
    return;
  }
  region->exported(+1);
  regions_.push_back(Napi::Persistent(info[1].As<Napi::Object>()));
}

Napi::Value MountObject::flush(const Napi::CallbackInfo& info) { return startFlush(info, false); }
Napi::Value MountObject::invalidate(const Napi::CallbackInfo& info) { return startFlush(info, true); }

Napi::Value MountObject::startFlush(const Napi::CallbackInfo& info, bool invalidate) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const std::string name = arguments.string(info[0], "name");
  if (!bridge_) arguments.refuse("make mounts with mountFuse()");
  if (!arguments.ok()) return env.Undefined();
  if (!server_) return bridge_->rejected(env, Failure::named("ENOTCONN", "the mount is gone"));
  const auto pending = bridge_->open(env, {info.This()});
  server_->flush(name, invalidate, [bridge = bridge_, id = pending.id](Failure failure) {
    if (failure) return bridge->reject(id, std::move(failure));
    bridge->resolve(id);
  });
  return pending.promise;
}

Napi::Value MountObject::setReadAhead(const Napi::CallbackInfo& info) {
  Arguments arguments(info.Env());
  const uint64_t bytes = arguments.integer(info[0], "bytes", 0, kMaxReadAheadBytes);
  if (!arguments.ok()) return info.Env().Undefined();
  return Napi::Boolean::New(info.Env(), server_ && server_->setReadAhead(bytes));
}

Napi::Value MountObject::unmount(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!bridge_) {
    Napi::TypeError::New(env, "make mounts with mountFuse()").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  return endLater(
      bridge_, info.This(), "memferry-umount",
      [server = server_] {
        if (server) server->stop(kUnmountPatience);
      },
      [this] { release(); });
}

Napi::Value MountObject::channels(const Napi::CallbackInfo& info) {
  Napi::Array out = Napi::Array::New(info.Env());
  if (!server_) return out;
  uint32_t count = 0;
  for (const int fd : server_->channels()) out.Set(count++, Napi::Number::New(info.Env(), fd));
  return out;
}

Napi::Value MountObject::serve(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), !server_ || server_->serve());
}

void MountObject::release() {
  if (!server_) return;
  server_.reset();
  environment_->forget(this);
  for (Napi::ObjectReference& region : regions_) {
    if (RegionObject* object = RegionObject::from(region.Value())) object->exported(-1);
  }
  regions_.clear();
  Unref();
}

Napi::Value MountObject::directory(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), directory_);
}

}  // namespace memferry
