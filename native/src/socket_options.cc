#include "socket_options.h"

#include <dirent.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include "arguments.h"

namespace memferry {
namespace {

// TCP_CA_NAME_MAX of the kernel.
constexpr socklen_t kNameBytes = 16;
// Twice this is what the kernel's int holds.
constexpr uint64_t kBufferBytesMax = 512ULL * 1024 * 1024;

int optionOf(int fd, int level, int name) {
  int value = 0;
  socklen_t length = sizeof value;
  return ::getsockopt(fd, level, name, &value, &length) == 0 ? value : -1;
}

std::string congestionControlOf(int fd) {
  char name[kNameBytes + 1] = {};
  socklen_t length = kNameBytes;
  return ::getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length) == 0 ? name : "";
}

bool isDatagram(int fd) {
  const int domain = optionOf(fd, SOL_SOCKET, SO_DOMAIN);
  return (domain == AF_INET || domain == AF_INET6) &&
         optionOf(fd, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM;
}

int descriptor(Arguments& arguments, const Napi::Value& value) {
  return static_cast<int>(arguments.integer(value, "fd", 0, INT_MAX));
}

}  // namespace

// The kernel doubles what it is given, for its own bookkeeping, and tells the double.
int raiseSocketBuffer(int fd, int bytes, int forced, int plain) {
  if (optionOf(fd, SOL_SOCKET, plain) / 2 < bytes &&
      ::setsockopt(fd, SOL_SOCKET, forced, &bytes, sizeof bytes) != 0) {
    ::setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof bytes);
  }
  return optionOf(fd, SOL_SOCKET, plain) / 2;
}

Napi::Value setCongestionControl(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const int fd = descriptor(arguments, info[0]);
  const std::string name = arguments.string(info[1], "name");
  if (arguments.ok() && name.size() >= kNameBytes) arguments.refuse("name is too long");
  if (!arguments.ok()) return env.Undefined();
  if (::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name.data(),
                   static_cast<socklen_t>(name.size())) == 0) {
    return env.Null();
  }
  const int error = errno;
  if (error == ENOENT) return Napi::String::New(env, "this kernel has no " + name);
  if (error == EPERM) {
    return Napi::String::New(env, "net.ipv4.tcp_allowed_congestion_control does not list " + name);
  }
  return Napi::String::New(env, std::strerror(error));
}

Napi::Value setUnsentBytesMax(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const int fd = descriptor(arguments, info[0]);
  const auto bytes = static_cast<int>(arguments.integer(info[1], "bytes", 1, INT_MAX));
  if (!arguments.ok()) return env.Undefined();
  const int done = ::setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof bytes);
  return Napi::Boolean::New(env, done == 0);
}

Napi::Value setSocketBuffers(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const int fd = descriptor(arguments, info[0]);
  const Napi::Object wanted = arguments.object(info[1], "buffers");
  if (!arguments.ok()) return env.Undefined();
  const auto bytesOf = [&](const char* name) {
    return static_cast<int>(arguments.integer(wanted.Get(name), name, 0, kBufferBytesMax, 0));
  };
  const int receive = bytesOf("receive");
  const int send = bytesOf("send");
  if (!arguments.ok()) return env.Undefined();
  Napi::Object out = Napi::Object::New(env);
  out.Set("receive", raiseSocketBuffer(fd, receive, SO_RCVBUFFORCE, SO_RCVBUF));
  out.Set("send", raiseSocketBuffer(fd, send, SO_SNDBUFFORCE, SO_SNDBUF));
  return out;
}

Napi::Value socketFacts(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Arguments arguments(env);
  const int fd = descriptor(arguments, info[0]);
  if (!arguments.ok()) return env.Undefined();
  // Zeroed: an older kernel fills in less.
  tcp_info facts = {};
  socklen_t length = sizeof facts;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &facts, &length) != 0) return env.Null();
  Napi::Object out = Napi::Object::New(env);
  out.Set("congestionControl", congestionControlOf(fd));
  out.Set("rttMs", facts.tcpi_rtt / 1000.0);
  out.Set("rttMinMs", facts.tcpi_min_rtt / 1000.0);
  out.Set("windowBytes", static_cast<double>(facts.tcpi_snd_cwnd) * facts.tcpi_snd_mss);
  out.Set("retransmits", facts.tcpi_total_retrans);
  out.Set("deliveryBytesPerS", static_cast<double>(facts.tcpi_delivery_rate));
  out.Set("segmentBytes", facts.tcpi_snd_mss);
  return out;
}

Napi::Value datagramSockets(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array out = Napi::Array::New(env);
  DIR* directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) return out;
  uint32_t count = 0;
  while (const dirent* entry = ::readdir(directory)) {
    char* end = nullptr;
    const long fd = std::strtol(entry->d_name, &end, 10);
    if (end == entry->d_name || *end != '\0' || fd < 0 || fd > INT_MAX) continue;
    if (isDatagram(static_cast<int>(fd))) out.Set(count++, Napi::Number::New(env, fd));
  }
  ::closedir(directory);
  return out;
}

}  // namespace memferry
