// What JS does with a region that is a copy: see region_copy.cc.
#include <utility>
#include <vector>

#include "arguments.h"
#include "region_object.h"
#include "values.h"

namespace memferry {

Napi::Value RegionObject::takeSyncs(const Napi::CallbackInfo& info) {
  Region* region = openOrThrow(info.Env());
  if (!region) return info.Env().Undefined();
  return Napi::Number::New(info.Env(), static_cast<double>(region->waiting().takeSyncs()));
}

void RegionObject::settleSyncs(const Napi::CallbackInfo& info) {
  Region* region = openOrThrow(info.Env());
  if (!region) return;
  Arguments arguments(info.Env());
  const uint64_t group = arguments.integer(info[0], "group", 1, (1ull << 53) - 1);
  int error = 0;
  if (!info[1].IsUndefined()) {
    error = errnoNumber(arguments.string(info[1], "errno"));
    if (arguments.ok() && error == 0) arguments.refuse("errno must be a name such as EIO");
  }
  if (arguments.ok()) region->waiting().settleSyncs(group, error);
}

void RegionObject::settleWritten(const Napi::CallbackInfo& info) {
  Region* region = openOrThrow(info.Env());
  const uint8_t* bits = nullptr;
  if (!region || !bitmapArgument(info, bits)) return;
  if (region->state() && region->state()->keepsWrites()) region->state()->settle(bits, region->dirty());
}

Napi::Value RegionObject::written(const Napi::CallbackInfo& info) {
  Region* region = openOrThrow(info.Env());
  if (!region) return info.Env().Undefined();
  return bitmap(info.Env(), [&](uint8_t* out) {
    if (region->state() && region->state()->keepsWrites()) region->state()->copyWritten(out);
  });
}

Napi::Value RegionObject::evict(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Region* region = region_.get();
  if (!region) return rejectClosed(env);
  Arguments arguments(env);
  const auto indexes = arguments.words(info[0], "indexes");
  for (size_t i = 0; arguments.ok() && i < indexes.length; i++) {
    if (indexes.data[i] >= chunkCount_) arguments.refuse("an index is not below chunkCount");
  }
  if (!region->evictable()) arguments.refuse("the region was not opened as evictable");
  if (!arguments.ok()) return env.Undefined();
  const auto pending = bridge_->open(env, {info.This()});
  region->evict({indexes.data, indexes.data + indexes.length},
                [bridge = bridge_, id = pending.id](std::vector<uint32_t> gone) {
                  bridge->resolve(id, [gone = std::move(gone)](Napi::Env settling) {
                    return makeWords(settling, gone.data(), gone.size());
                  });
                });
  return pending.promise;
}

}  // namespace memferry
