// NbdServer as JS sees it. JS thread only. Lives until stop(), not until it is collected.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

#include "bridge.h"
#include "environment.h"
#include "nbd_server.h"

namespace memferry {

class NbdObject : public Napi::ObjectWrap<NbdObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value serve(const Napi::CallbackInfo& info);

  explicit NbdObject(const Napi::CallbackInfo& info);
  ~NbdObject() override;

 private:
  void add(const Napi::CallbackInfo& info);
  Napi::Value address(const Napi::CallbackInfo& info);
  Napi::Value connections(const Napi::CallbackInfo& info);
  Napi::Value stop(const Napi::CallbackInfo& info);
  void release();

  std::shared_ptr<Environment> environment_;
  std::shared_ptr<Bridge> bridge_;
  std::shared_ptr<NbdServer> server_;
  // Weak elsewhere: it is freed on the JS thread.
  std::shared_ptr<Napi::FunctionReference> tls_;
  std::vector<Napi::ObjectReference> regions_;
};

}  // namespace memferry
