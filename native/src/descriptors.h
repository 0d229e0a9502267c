// Descriptors that pass from one process to the next, so that what they stand for outlives both.
#pragma once

#include <napi.h>

namespace memferry {

// adoptDescriptor(pid, fd): a copy of another process's descriptor, by pidfd_getfd(2). That process must be
// ours to trace, as a child is.
Napi::Value adoptDescriptor(const Napi::CallbackInfo& info);
// closeDescriptor(fd)
Napi::Value closeDescriptor(const Napi::CallbackInfo& info);

}  // namespace memferry
