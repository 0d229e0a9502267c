// NativeRegion as JS sees it. JS thread only; the work is Region's.
//
// The object keeps its Region alive, a pending promise keeps the object, and so does a mount that
// exports it. Collected without close(), it shuts its Region down.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>

#include "bridge.h"
#include "environment.h"
#include "region.h"

namespace memferry {

class RegionObject : public Napi::ObjectWrap<RegionObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value open(const Napi::CallbackInfo& info);
  // One that another environment of this process opened; closing it only lets go of it.
  static Napi::Value share(const Napi::CallbackInfo& info);
  // Null if `value` is not a region of this environment.
  static RegionObject* from(const Napi::Value& value);

  explicit RegionObject(const Napi::CallbackInfo& info);
  ~RegionObject() override;

  // Null after close().
  const std::shared_ptr<Region>& region() const { return region_; }
  void exported(int change) {
    exports_ += change;
    region_->exported(change);
  }

 private:
  // What the fault callback needs; shared with calls that are on their way while the object goes. The
  // function is a property of the JS object, where the collector sees it, and weak here: it commonly
  // refers back to the region, and a strong reference would keep that circle for ever.
  struct FaultSink {
    std::weak_ptr<Region> region;
    Napi::FunctionReference callback;
  };

  // What tells `sink` in its own environment of faults.
  static std::function<void()> teller(const std::shared_ptr<Bridge>& bridge, const std::shared_ptr<FaultSink>& sink);
  using Tell = std::function<void(Napi::Env, const Napi::Function&, Region&)>;
  static std::function<void()> teller(const std::shared_ptr<Bridge>& bridge, const std::shared_ptr<FaultSink>& sink,
                                      Tell tell);
  // Keeps the callback where the collector sees it.
  static void keepCallback(Napi::Object made, const char* name, const Napi::Value& callback, FaultSink& sink);
  // Lets go of a region that is another environment's.
  void unshare();
  // The region, or null with an error pending.
  Region* openOrThrow(Napi::Env env);
  // The same for methods that answer by promise.
  Napi::Value rejectClosed(Napi::Env env);
  Napi::Value bitmap(Napi::Env env, const std::function<void(uint8_t*)>& fill);
  bool bitmapArgument(const Napi::CallbackInfo& info, const uint8_t*& out);
  Napi::Value startRead(const Napi::CallbackInfo& info, bool withBytes);

  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value hash(const Napi::CallbackInfo& info);
  Napi::Value store(const Napi::CallbackInfo& info);
  Napi::Value sync(const Napi::CallbackInfo& info);
  Napi::Value checkpoint(const Napi::CallbackInfo& info);
  Napi::Value storedHashes(const Napi::CallbackInfo& info);
  Napi::Value descriptor(const Napi::CallbackInfo& info);
  Napi::Value restored(const Napi::CallbackInfo& info);
  Napi::Value takeDirty(const Napi::CallbackInfo& info);
  void mergeDirty(const Napi::CallbackInfo& info);
  Napi::Value presence(const Napi::CallbackInfo& info);
  void setPresent(const Napi::CallbackInfo& info);
  Napi::Value gate(const Napi::CallbackInfo& info);
  void setGate(const Napi::CallbackInfo& info);
  Napi::Value quiesce(const Napi::CallbackInfo& info);
  void retryFaults(const Napi::CallbackInfo& info);
  void failParked(const Napi::CallbackInfo& info);
  Napi::Value stats(const Napi::CallbackInfo& info);
  Napi::Value flushMappings(const Napi::CallbackInfo& info);
  void rekey(const Napi::CallbackInfo& info);
  Napi::Value takeSyncs(const Napi::CallbackInfo& info);
  void settleSyncs(const Napi::CallbackInfo& info);
  void settleWritten(const Napi::CallbackInfo& info);
  Napi::Value written(const Napi::CallbackInfo& info);
  Napi::Value evict(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
  Napi::Value bytes(const Napi::CallbackInfo& info);
  Napi::Value chunkBytes(const Napi::CallbackInfo& info);
  Napi::Value chunkCount(const Napi::CallbackInfo& info);
  Napi::Value id(const Napi::CallbackInfo& info);
  void become(const std::shared_ptr<Environment>& environment, std::shared_ptr<Region> region);

  std::shared_ptr<Environment> environment_;
  std::shared_ptr<Bridge> bridge_;
  std::shared_ptr<Region> region_;
  std::shared_ptr<FaultSink> faults_;
  std::shared_ptr<FaultSink> syncs_;
  // Not ours to end.
  bool isShared_ = false;
  int exports_ = 0;
  uint64_t bytes_ = 0;
  uint32_t chunkBytes_ = 0;
  uint32_t chunkCount_ = 0;
};

}  // namespace memferry
