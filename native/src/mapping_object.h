// RegionMapping as JS sees it. JS thread only. Lives until unmap(), not until it is collected.
#pragma once

#include <napi.h>

#include <memory>

#include "bridge.h"
#include "environment.h"
#include "region_mapping.h"

namespace memferry {

class MappingObject : public Napi::ObjectWrap<MappingObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value map(const Napi::CallbackInfo& info);

  explicit MappingObject(const Napi::CallbackInfo& info);
  ~MappingObject() override;

 private:
  Napi::Value memory(const Napi::CallbackInfo& info);
  Napi::Value tracking(const Napi::CallbackInfo& info);
  Napi::Value flush(const Napi::CallbackInfo& info);
  Napi::Value unmap(const Napi::CallbackInfo& info);
  bool detach();
  void release();

  std::shared_ptr<Environment> environment_;
  std::shared_ptr<Bridge> bridge_;
  std::shared_ptr<RegionMapping> mapping_;
  UffdSpace::Tracking tracking_ = UffdSpace::Tracking::async;
  Napi::ObjectReference region_;
  Napi::ObjectReference memory_;
};

}  // namespace memferry
