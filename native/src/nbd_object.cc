#include "nbd_object.h"

#include <utility>

#include "arguments.h"
#include "ending.h"
#include "region_object.h"

namespace memferry {
namespace {

constexpr uint64_t kMaxConnections = 1024;
constexpr size_t kMaxNameBytes = 4096;

// What a connection hands over for TLS. Closes both if nobody comes for them.
struct TlsHandOver {
  Descriptor encrypted;
  Descriptor plain;
};

}  // namespace

Napi::Function NbdObject::define(Napi::Env env) {
  return DefineClass(env, "NbdServer",
                     {
                         InstanceAccessor<&NbdObject::address>("address", napi_enumerable),
                         InstanceAccessor<&NbdObject::connections>("connections", napi_enumerable),
                         InstanceMethod<&NbdObject::add>("add"),
                         InstanceMethod<&NbdObject::stop>("stop"),
                     });
}

Napi::Value NbdObject::serve(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const Napi::Object given = arguments.object(info[0], "options");
  if (!arguments.ok()) return env.Undefined();
  NbdServer::Options options;
  const Napi::Object listen = arguments.object(given.Get("listen"), "listen");
  if (!arguments.ok()) return env.Undefined();
  const Napi::Value path = listen.Get("path");
  if (path.IsUndefined()) {
    options.host = arguments.string(listen.Get("host"), "listen.host");
    options.port = static_cast<uint16_t>(arguments.integer(listen.Get("port"), "listen.port", 0, 65535));
    if (options.host.find('\0') != std::string::npos) arguments.refuse("listen.host must not contain NUL");
  } else {
    options.path = arguments.string(path, "listen.path");
    if (options.path.empty() || options.path.find('\0') != std::string::npos) {
      arguments.refuse("listen.path must not be empty or contain NUL");
    }
  }
  const Napi::Value tls = given.Get("tls");
  if (!tls.IsUndefined()) {
    const std::string text = arguments.string(tls, "tls");
    if (text != "off" && text != "allow" && text != "require") arguments.refuse("tls must be off, allow or require");
    options.tls = text == "require" ? NbdTls::require : text == "allow" ? NbdTls::allow : NbdTls::off;
  }
  const Napi::Value onTls = given.Get("onTls");
  if (options.tls != NbdTls::off && !onTls.IsFunction()) arguments.refuse("onTls must be a function");
  options.maxConnections = static_cast<unsigned>(
      arguments.integer(given.Get("maxConnections"), "maxConnections", 1, kMaxConnections, 64));
  if (!arguments.ok()) return env.Undefined();

  const auto& environment = Environment::of(env);
  const auto sink = std::make_shared<Napi::FunctionReference>();
  if (options.tls != NbdTls::off) {
    options.onTls = [bridge = environment->bridge, weak = std::weak_ptr<Napi::FunctionReference>(sink)](Descriptor encrypted,
                                                                                       Descriptor plain) {
      auto both = std::make_shared<TlsHandOver>(TlsHandOver{std::move(encrypted), std::move(plain)});
      bridge->post([weak, both](Napi::Env posted) {
        const auto held = weak.lock();
        const Napi::Function callback = held ? held->Value() : Napi::Function();
        if (callback.IsEmpty()) return;
        callback.Call({Napi::Number::New(posted, both->encrypted.release()),
                       Napi::Number::New(posted, both->plain.release())});
      });
    };
  }
  Failure failure;
  std::shared_ptr<NbdServer> server = NbdServer::listen(std::move(options), failure);
  if (!server) {
    environment->bridge->error(env, failure).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const Napi::Object made = environment->nbdClass.New({});
  if (made.IsEmpty()) return env.Undefined();  // terminated meanwhile; `server` stops as it goes
  NbdObject* self = Unwrap(made);
  self->environment_ = environment;
  self->bridge_ = environment->bridge;
  if (onTls.IsFunction()) {
    *sink = Napi::Persistent(onTls.As<Napi::Function>());
    self->tls_ = sink;
  }
  environment->onTeardown(self, Environment::Kind::mount, [server] { server->stop(); });
  self->server_ = std::move(server);
  self->Ref();
  return made;
}

NbdObject::NbdObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NbdObject>(info) {}

NbdObject::~NbdObject() {
  if (environment_) environment_->forget(this);
}

void NbdObject::add(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  NbdExport made;
  made.name = arguments.string(info[0], "name");
  if (made.name.size() > kMaxNameBytes) arguments.refuse("name must have at most 4,096 bytes");
  RegionObject* region = RegionObject::from(info[1]);
  if (!region) arguments.refuse("region must come from openRegion()");
  if (arguments.ok() && info[2].IsObject()) {
    const Napi::Object attributes = info[2].As<Napi::Object>();
    made.readOnly = arguments.boolean(attributes.Get("readOnly"), "attributes.readOnly", false);
    const Napi::Value description = attributes.Get("description");
    if (!description.IsUndefined()) made.description = arguments.string(description, "attributes.description");
    if (made.description.size() > kMaxNameBytes) arguments.refuse("description must have at most 4,096 bytes");
  }
  if (!arguments.ok()) return;
  Failure failure;
  if (!server_) {
    if (!bridge_) return arguments.refuse("make servers with serveNbd()");
    failure = Failure::named("ENOTCONN", "the server has stopped");
  } else if (!region->region()) {
    failure = Failure::named("ESHUTDOWN", "the region is closed");
  } else {
    made.region = region->region();
    made.readOnly = made.readOnly || made.region->readOnly();
    failure = server_->exports().add(std::move(made));
  }
  if (failure) {
    bridge_->error(env, failure).ThrowAsJavaScriptException();
    return;
  }
  region->exported(+1);
  regions_.push_back(Napi::Persistent(info[1].As<Napi::Object>()));
}

Napi::Value NbdObject::address(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object out = Napi::Object::New(env);
  if (!server_) return out;
  if (!server_->path().empty()) {
    out.Set("path", Napi::String::New(env, server_->path()));
  } else {
    out.Set("host", Napi::String::New(env, server_->host()));
    out.Set("port", Napi::Number::New(env, server_->port()));
  }
  return out;
}

Napi::Value NbdObject::connections(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), server_ ? static_cast<double>(server_->connections()) : 0);
}

Napi::Value NbdObject::stop(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!bridge_) {
    Napi::TypeError::New(env, "make servers with serveNbd()").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  return endLater(
      bridge_, info.This(), "memferry-nbd-st",
      [server = server_] {
        if (server) server->stop();
      },
      [this] { release(); });
}

void NbdObject::release() {
  if (!server_) return;
  server_.reset();
  tls_.reset();
  environment_->forget(this);
  for (Napi::ObjectReference& region : regions_) {
    if (RegionObject* object = RegionObject::from(region.Value())) object->exported(-1);
  }
  regions_.clear();
  Unref();
}

}  // namespace memferry
