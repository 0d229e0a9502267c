// Reading arguments from JS. A wrong argument throws a TypeError and leaves it pending; callers check
// `ok` and return.
#pragma once

#include <napi.h>

#include <cstdint>
#include <optional>
#include <string>

namespace memferry {

struct BytesArgument {
  uint8_t* data = nullptr;
  size_t length = 0;
};

struct WordsArgument {
  const uint32_t* data = nullptr;
  size_t length = 0;
};

class Arguments {
 public:
  explicit Arguments(Napi::Env env) : env_(env) {}

  bool ok() const { return ok_; }
  void refuse(const std::string& message) {
    if (ok_) Napi::TypeError::New(env_, message).ThrowAsJavaScriptException();
    ok_ = false;
  }

  Napi::Object object(const Napi::Value& value, const char* name) {
    if (value.IsObject()) return value.As<Napi::Object>();
    refuse(std::string(name) + " must be an object");
    return Napi::Object::New(env_);
  }

  std::string string(const Napi::Value& value, const char* name) {
    if (value.IsString()) return value.As<Napi::String>().Utf8Value();
    refuse(std::string(name) + " must be a string");
    return {};
  }

  // `fallback` stands for undefined; without one, undefined is refused.
  bool boolean(const Napi::Value& value, const char* name, std::optional<bool> fallback = {}) {
    if (value.IsBoolean()) return value.As<Napi::Boolean>().Value();
    if (value.IsUndefined() && fallback) return *fallback;
    refuse(std::string(name) + " must be a boolean");
    return false;
  }

  uint64_t integer(const Napi::Value& value, const char* name, uint64_t least, uint64_t most,
                   std::optional<uint64_t> fallback = {}) {
    if (value.IsUndefined() && fallback) return *fallback;
    const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
    if (number >= static_cast<double>(least) && number <= static_cast<double>(most) &&
        number == static_cast<double>(static_cast<uint64_t>(number))) {
      return static_cast<uint64_t>(number);
    }
    refuse(std::string(name) + " must be an integer from " + std::to_string(least) + " to " +
           std::to_string(most));
    return least;
  }

  BytesArgument bytes(const Napi::Value& value, const char* name) {
    if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array) {
      auto array = value.As<Napi::Uint8Array>();
      return {array.Data(), array.ByteLength()};
    }
    refuse(std::string(name) + " must be a Uint8Array");
    return {};
  }

  WordsArgument words(const Napi::Value& value, const char* name) {
    if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_uint32_array) {
      auto array = value.As<Napi::Uint32Array>();
      return {array.Data(), array.ElementLength()};
    }
    refuse(std::string(name) + " must be a Uint32Array");
    return {};
  }

 private:
  Napi::Env env_;
  bool ok_ = true;
};

}  // namespace memferry
