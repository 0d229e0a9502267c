// Options of sockets that the runtime opened and offers no call for. They are hints: what the kernel does not
// grant is told and changes nothing else.
#pragma once

#include <napi.h>

namespace memferry {

// Beyond the administrator's bound only with the capability, else up to it; never lowers. Usable bytes as they are now.
int raiseSocketBuffer(int fd, int bytes, int forced, int plain);
// setCongestionControl(fd, name): null if it is in force now, else why not.
Napi::Value setCongestionControl(const Napi::CallbackInfo& info);
// setUnsentBytesMax(fd, bytes): TCP_NOTSENT_LOWAT; whether the kernel took it.
Napi::Value setUnsentBytesMax(const Napi::CallbackInfo& info);
// setSocketBuffers(fd, {receive?, send?}): {receive, send} as they are now, in usable bytes.
Napi::Value setSocketBuffers(const Napi::CallbackInfo& info);
// socketFacts(fd): what the kernel knows of a TCP connection, or null if it is none.
Napi::Value socketFacts(const Napi::CallbackInfo& info);
// datagramSockets(): descriptors of this process's UDP sockets.
Napi::Value datagramSockets(const Napi::CallbackInfo& info);

}  // namespace memferry
