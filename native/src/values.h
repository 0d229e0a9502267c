// Making JS values out of bytes.
//
// An environment that is being terminated answers every request for a new value with an empty one, and
// a worker may be terminated between any two calls. Values that are written to are checked here.
#pragma once

#include <napi.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace memferry {

inline Napi::Value makeBytes(Napi::Env env, const uint8_t* data, size_t length) {
  Napi::Uint8Array out = Napi::Uint8Array::New(env, length);
  if (length > 0 && out.Data()) std::memcpy(out.Data(), data, length);
  return out;
}

inline Napi::Value makeWords(Napi::Env env, const uint32_t* data, size_t length) {
  Napi::Uint32Array out = Napi::Uint32Array::New(env, length);
  if (length > 0 && out.Data()) std::memcpy(out.Data(), data, length * sizeof *data);
  return out;
}

}  // namespace memferry
