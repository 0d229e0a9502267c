#include "direct_object.h"

#include <utility>

#include "arguments.h"
#include "ending.h"
#include "values.h"

namespace memferry {
namespace {

constexpr uint64_t kReadBytesMax = 1024 * 1024;
constexpr uint64_t kRttMax = 60'000'000;

Napi::Array numbers(Napi::Env env, const std::vector<unsigned>& values) {
  Napi::Array out = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); i++) out.Set(i, Napi::Number::New(env, values[i]));
  return out;
}

}  // namespace

Napi::Function DirectObject::define(Napi::Env env) {
  return DefineClass(env, "DirectSocket",
                     {
                         InstanceAccessor<&DirectObject::port>("port", napi_enumerable),
                         InstanceAccessor<&DirectObject::closeReason>("closeReason", napi_enumerable),
                         InstanceAccessor<&DirectObject::closeCode>("closeCode", napi_enumerable),
                         InstanceMethod<&DirectObject::send>("send"),
                         InstanceMethod<&DirectObject::connect>("connect"),
                         InstanceMethod<&DirectObject::write>("write"),
                         InstanceMethod<&DirectObject::end>("end"),
                         InstanceMethod<&DirectObject::read>("read"),
                         InstanceMethod<&DirectObject::poll>("poll"),
                         InstanceMethod<&DirectObject::stats>("stats"),
                         InstanceMethod<&DirectObject::close>("close"),
                     });
}

Napi::Value DirectObject::open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const Napi::Object given = arguments.object(info[0], "options");
  if (!arguments.ok()) return env.Undefined();
  const auto port = static_cast<uint16_t>(arguments.integer(given.Get("port"), "port", 0, 65535, 0));
  const Napi::Value onWake = given.Get("onWake");
  if (!onWake.IsFunction()) arguments.refuse("onWake must be a function");
  if (!arguments.ok()) return env.Undefined();
  const auto& environment = Environment::of(env);
  const auto sink = std::make_shared<Napi::FunctionReference>();
  Failure failure;
  std::shared_ptr<DirectSocket> socket = DirectSocket::open(
      port,
      [bridge = environment->bridge, weak = std::weak_ptr<Napi::FunctionReference>(sink)] {
        bridge->post([weak](Napi::Env) {
          const auto held = weak.lock();
          const Napi::Function callback = held ? held->Value() : Napi::Function();
          if (!callback.IsEmpty()) callback.Call({});
        });
      },
      failure);
  if (!socket) {
    environment->bridge->error(env, failure).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const Napi::Object made = environment->directClass.New({});
  if (made.IsEmpty()) return env.Undefined();  // terminated meanwhile; `socket` stops as it goes
  DirectObject* self = Unwrap(made);
  self->environment_ = environment;
  self->bridge_ = environment->bridge;
  *sink = Napi::Persistent(onWake.As<Napi::Function>());
  self->onWake_ = sink;
  environment->onTeardown(self, Environment::Kind::mount, [socket] { socket->stop(false, 0, "the process ends"); });
  self->socket_ = std::move(socket);
  self->Ref();
  return made;
}

DirectObject::DirectObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DirectObject>(info) {}

DirectObject::~DirectObject() {
  if (environment_) environment_->forget(this);
}

Napi::Value DirectObject::port(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), socket_ ? socket_->port() : 0);
}

Napi::Value DirectObject::send(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const auto data = arguments.bytes(info[0], "bytes");
  const std::string address = arguments.string(info[1], "address");
  const auto port = static_cast<uint16_t>(arguments.integer(info[2], "port", 1, 65535));
  if (!arguments.ok()) return env.Undefined();
  return Napi::Boolean::New(env, socket_ && socket_->send(data.data, data.length, address, port));
}

Napi::Value DirectObject::connect(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const Napi::Object given = arguments.object(info[0], "options");
  if (!arguments.ok()) return env.Undefined();
  direct::ConnectionOptions options;
  const std::string address = arguments.string(given.Get("address"), "address");
  const auto port = static_cast<uint16_t>(arguments.integer(given.Get("port"), "port", 1, 65535));
  options.id = static_cast<uint32_t>(arguments.integer(given.Get("id"), "id", 0, UINT32_MAX));
  options.rtt = arguments.integer(given.Get("rttUs"), "rttUs", 0, kRttMax);
  options.bytesPerS = arguments.integer(given.Get("bytesPerS"), "bytesPerS", 0, uint64_t{1} << 40, 0);
  options.warm = arguments.boolean(given.Get("warm"), "warm", false);
  const auto sendKey = arguments.bytes(given.Get("sendKey"), "sendKey");
  const auto receiveKey = arguments.bytes(given.Get("receiveKey"), "receiveKey");
  if (arguments.ok() && (sendKey.length != direct::kKeyBytes || receiveKey.length != direct::kKeyBytes)) {
    arguments.refuse("sendKey and receiveKey must have 32 bytes each");
  }
  if (!arguments.ok()) return env.Undefined();
  std::copy_n(sendKey.data, direct::kKeyBytes, options.sendKey.begin());
  std::copy_n(receiveKey.data, direct::kKeyBytes, options.receiveKey.begin());
  return Napi::Boolean::New(env, socket_ && socket_->connect(options, address, port));
}

std::optional<unsigned> DirectObject::stream(const Napi::Value& value, Napi::Env env) {
  Arguments arguments(env);
  const auto number = static_cast<unsigned>(arguments.integer(value, "stream", 0, direct::kStreams - 1));
  return arguments.ok() ? std::optional(number) : std::nullopt;
}

Napi::Value DirectObject::write(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto to = stream(info[0], env);
  if (!to) return env.Undefined();
  Arguments arguments(env);
  const auto data = arguments.bytes(info[1], "bytes");
  if (!arguments.ok()) return env.Undefined();
  return Napi::Boolean::New(env, !socket_ || socket_->write(*to, data.data, data.length));
}

void DirectObject::end(const Napi::CallbackInfo& info) {
  if (const auto of = stream(info[0], info.Env()); of && socket_) socket_->end(*of);
}

Napi::Value DirectObject::read(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto from = stream(info[0], env);
  if (!from) return env.Undefined();
  Arguments arguments(env);
  const size_t most = arguments.integer(info[1], "most", 1, kReadBytesMax);
  if (!arguments.ok() || !socket_) return env.Undefined();
  const size_t count = std::min(most, socket_->readable(*from));
  if (count == 0) return socket_->finished(*from) ? env.Null() : env.Undefined();
  // Not zeroed first, as an ArrayBuffer of JS would be. Only this thread reads, so the bytes are still there.
  auto buffer = Napi::Buffer<uint8_t>::New(env, count);
  if (buffer.IsEmpty()) return env.Undefined();  // terminated meanwhile
  socket_->read(*from, buffer.Data(), count);
  return buffer;
}

Napi::Value DirectObject::poll(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const DirectSocket::Events events = socket_ ? socket_->poll() : DirectSocket::Events{};
  Napi::Object out = Napi::Object::New(env);
  Napi::Array datagrams = Napi::Array::New(env, events.datagrams.size());
  for (uint32_t i = 0; i < events.datagrams.size(); i++) {
    const auto& datagram = events.datagrams[i];
    Napi::Object one = Napi::Object::New(env);
    one.Set("bytes", makeBytes(env, datagram.bytes.data(), datagram.bytes.size()));
    one.Set("address", Napi::String::New(env, datagram.address));
    one.Set("port", Napi::Number::New(env, datagram.port));
    datagrams.Set(i, one);
  }
  out.Set("datagrams", datagrams);
  out.Set("readable", numbers(env, events.readable));
  out.Set("writable", numbers(env, events.writable));
  out.Set("closed", Napi::Boolean::New(env, events.closed));
  return out;
}

Napi::Value DirectObject::stats(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object out = Napi::Object::New(env);
  if (!socket_) return out;
  const direct::ConnectionStats stats = socket_->stats();
  const auto set = [&](const char* name, double value) { out.Set(name, Napi::Number::New(env, value)); };
  set("packetsSent", static_cast<double>(stats.packetsSent));
  set("packetsReceived", static_cast<double>(stats.packetsReceived));
  set("packetsLost", static_cast<double>(stats.packetsLost));
  set("packetsRefused", static_cast<double>(stats.packetsRefused));
  set("bytesSent", static_cast<double>(stats.bytesSent));
  set("bytesReceived", static_cast<double>(stats.bytesReceived));
  set("rttMs", static_cast<double>(stats.rtt) / 1e3);
  set("minRttMs", static_cast<double>(stats.minRtt) / 1e3);
  set("bytesPerS", static_cast<double>(stats.bandwidth));
  set("inFlightBytes", static_cast<double>(stats.inFlight));
  set("windowBytes", static_cast<double>(stats.window));
  set("packetBytes", static_cast<double>(stats.packetBytes));
  set("silentForMs", static_cast<double>(stats.silentFor) / 1e3);
  const DirectSocket::Datagram remote = socket_->remote();
  out.Set("address", Napi::String::New(env, remote.address));
  out.Set("port", Napi::Number::New(env, remote.port));
  return out;
}

Napi::Value DirectObject::closeReason(const Napi::CallbackInfo& info) {
  const std::string reason = socket_ ? socket_->closeReason() : "closed";
  return reason.empty() ? info.Env().Undefined() : Napi::String::New(info.Env(), reason);
}

Napi::Value DirectObject::closeCode(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), socket_ ? socket_->closeCode() : 0);
}

Napi::Value DirectObject::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const std::string reason = arguments.string(info[0], "reason");
  const auto code = static_cast<uint16_t>(arguments.integer(info[1], "code", 0, UINT16_MAX, 0));
  const bool settle = arguments.boolean(info[2], "settle", false);
  if (arguments.ok() && !bridge_) arguments.refuse("make sockets with openDirectSocket()");
  if (!arguments.ok()) return env.Undefined();
  return endLater(
      bridge_, info.This(), "memferry-dir-st",
      [socket = socket_, reason, code, settle] {
        if (socket) socket->stop(settle, code, reason);
      },
      [this] { release(); });
}

void DirectObject::release() {
  if (!socket_) return;
  socket_.reset();
  onWake_.reset();
  environment_->forget(this);
  Unref();
}

}  // namespace memferry
