// FuseMount as JS sees it. JS thread only; the work is FuseServer's.
//
// A mount lives until unmount(), not until it is collected: its users are other processes. It keeps
// itself and the regions that it exports referenced.
#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <vector>

#include "environment.h"
#include "fuse_server.h"

namespace memferry {

class MountObject : public Napi::ObjectWrap<MountObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value mount(const Napi::CallbackInfo& info);
  static Napi::Value probe(const Napi::CallbackInfo& info);

  explicit MountObject(const Napi::CallbackInfo& info);
  ~MountObject() override;

 private:
  void add(const Napi::CallbackInfo& info);
  Napi::Value flush(const Napi::CallbackInfo& info);
  Napi::Value invalidate(const Napi::CallbackInfo& info);
  Napi::Value startFlush(const Napi::CallbackInfo& info, bool invalidate);
  Napi::Value setReadAhead(const Napi::CallbackInfo& info);
  Napi::Value unmount(const Napi::CallbackInfo& info);
  Napi::Value channels(const Napi::CallbackInfo& info);
  Napi::Value serve(const Napi::CallbackInfo& info);
  Napi::Value directory(const Napi::CallbackInfo& info);
  void release();

  std::shared_ptr<Environment> environment_;
  std::shared_ptr<Bridge> bridge_;
  std::shared_ptr<FuseServer> server_;
  std::string directory_;
  std::vector<Napi::ObjectReference> regions_;
};

}  // namespace memferry
