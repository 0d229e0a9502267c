// What went wrong, in a form that any thread can carry and the JS thread turns into a NativeError.
#pragma once

#include <string>

namespace memferry {

struct Failure {
  // The errno, or 0 where no system call failed (then `code` is one of ours, e.g. ESIZE).
  int error = 0;
  // Empty means success.
  std::string code;
  // One line, complete without the other fields.
  std::string message;
  const char* syscall = nullptr;
  std::string path;

  explicit operator bool() const { return !code.empty(); }

  // "ENOSPC: No space left on device, fallocate '/var/r.img'"
  static Failure system(int error, const char* syscall, std::string path = {});
  static Failure named(std::string code, std::string message, std::string path = {});
};

// "ENOSPC"; "E<number>" for one that is not in the table.
std::string errnoName(int error);
// 0 if the name is unknown.
int errnoNumber(const std::string& name);

}  // namespace memferry
