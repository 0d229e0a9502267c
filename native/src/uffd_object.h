// UffdServer as JS sees it. JS thread only. Lives until stop(), not until it is collected.
#pragma once

#include <napi.h>

#include <memory>

#include "bridge.h"
#include "environment.h"
#include "uffd_server.h"

namespace memferry {

class UffdObject : public Napi::ObjectWrap<UffdObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value serve(const Napi::CallbackInfo& info);
  static Napi::Value probe(const Napi::CallbackInfo& info);

  explicit UffdObject(const Napi::CallbackInfo& info);
  ~UffdObject() override;

 private:
  void add(const Napi::CallbackInfo& info);
  Napi::Value path(const Napi::CallbackInfo& info);
  Napi::Value clients(const Napi::CallbackInfo& info);
  Napi::Value refused(const Napi::CallbackInfo& info);
  Napi::Value flush(const Napi::CallbackInfo& info);
  Napi::Value stop(const Napi::CallbackInfo& info);
  void release();

  std::shared_ptr<Environment> environment_;
  std::shared_ptr<Bridge> bridge_;
  std::shared_ptr<UffdServer> server_;
  Napi::ObjectReference region_;
};

}  // namespace memferry
