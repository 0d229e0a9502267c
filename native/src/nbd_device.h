// A region as the kernel's own block device, /dev/nbdN.
//
// The kernel is a client like any other, over a socket pair and without a negotiation. It sends a request again
// only when it has waited for `timeoutSeconds` and then over another socket: it takes the old one for dead. So
// the *keeper*, a thread, hands it a new one whenever that happens, and who waits for a chunk waits as long as it
// takes. When this process dies, the kernel keeps who waits waiting for `deadSeconds`, in which a successor with
// the same identifier can attach() and go on. Everything here may take long: not on the JS thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "failure.h"
#include "nbd_connection.h"
#include "nbd_exports.h"
#include "nbd_ioctl.h"
#include "nbd_netlink.h"

namespace memferry {

class NbdDevice {
 public:
  struct Options {
    std::shared_ptr<Region> region;
    bool readOnly = false;
    // Of /dev/nbdN; below 0: the kernel picks one.
    int index = -1;
    // The device waits for a successor: new sockets for it.
    bool again = false;
    std::string identifier;
    unsigned connections = 1;
    uint64_t timeoutSeconds = 0;
    uint64_t deadSeconds = 0;
    // Also where the kernel's client speaks netlink.
    bool byIoctl = false;
  };

  static std::shared_ptr<NbdDevice> attach(const Options& options, Failure& failure);
  ~NbdDevice() { stop(); }
  int index() const { return index_; }
  bool isByIoctl() const { return ioctl_ != nullptr; }
  // Has the kernel write back and let go, then ends the connections. Not to be asked to write back when nobody
  // is left to fetch what it may need for that.
  Failure detach(bool writeBack);
  // Ends the connections alone: the device waits for a successor.
  void stop();

 private:
  explicit NbdDevice(const Options& options) : options_(options) {}
  // Makes a socket pair with a connection that serves one end; the other one is the kernel's.
  Descriptor serveOne(size_t slot, Failure& failure);
  NbdNetlink::Device description() const;
  Failure tellKernel(NbdNetlink::Device& device);
  void keep();

  const Options options_;
  NbdExports none_;
  int index_ = -1;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  std::vector<std::unique_ptr<NbdConnection>> connections_;
  // Whose connection has ended.
  std::vector<size_t> over_;
  std::thread keeper_;
  // Set if the device is attached that way. Nobody keeps its connections then: one that ends is the device's end.
  std::unique_ptr<NbdIoctl> ioctl_;
  std::mutex stopMutex_;
};

}  // namespace memferry
