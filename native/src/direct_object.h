// DirectSocket as JS sees it. JS thread only. Lives until close(), not until it is collected.
#pragma once

#include <napi.h>

#include <memory>

#include "bridge.h"
#include "direct_socket.h"
#include "environment.h"

namespace memferry {

class DirectObject : public Napi::ObjectWrap<DirectObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value open(const Napi::CallbackInfo& info);

  explicit DirectObject(const Napi::CallbackInfo& info);
  ~DirectObject() override;

 private:
  Napi::Value port(const Napi::CallbackInfo& info);
  Napi::Value send(const Napi::CallbackInfo& info);
  Napi::Value connect(const Napi::CallbackInfo& info);
  Napi::Value write(const Napi::CallbackInfo& info);
  void end(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value poll(const Napi::CallbackInfo& info);
  Napi::Value stats(const Napi::CallbackInfo& info);
  Napi::Value closeCode(const Napi::CallbackInfo& info);
  Napi::Value closeReason(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
  void release();
  std::optional<unsigned> stream(const Napi::Value& value, Napi::Env env);

  std::shared_ptr<Environment> environment_;
  std::shared_ptr<Bridge> bridge_;
  std::shared_ptr<DirectSocket> socket_;
  // Weak elsewhere: it is freed on the JS thread.
  std::shared_ptr<Napi::FunctionReference> onWake_;
};

}  // namespace memferry
