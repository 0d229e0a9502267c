// NbdDevice as JS sees it. JS thread only. Lives until detach(), not until it is collected.
#pragma once

#include <napi.h>

#include <memory>

#include "bridge.h"
#include "environment.h"
#include "nbd_device.h"

namespace memferry {

class NbdDeviceObject : public Napi::ObjectWrap<NbdDeviceObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value attach(const Napi::CallbackInfo& info);
  static Napi::Value disconnect(const Napi::CallbackInfo& info);

  explicit NbdDeviceObject(const Napi::CallbackInfo& info);
  ~NbdDeviceObject() override;

 private:
  Napi::Value path(const Napi::CallbackInfo& info);
  Napi::Value via(const Napi::CallbackInfo& info);
  Napi::Value detach(const Napi::CallbackInfo& info);
  void release();

  std::shared_ptr<Environment> environment_;
  std::shared_ptr<Bridge> bridge_;
  std::shared_ptr<NbdDevice> device_;
  Napi::ObjectReference region_;
};

}  // namespace memferry
