// The kernel's NBD client, told over generic netlink what to connect to.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "failure.h"

namespace memferry {

class NbdNetlink {
 public:
  struct Device {
    // Of /dev/nbdN; below 0: the kernel picks one.
    int index = -1;
    uint64_t bytes = 0;
    uint32_t blockBytes = 4096;
    uint16_t flags = 0;
    // A request that takes longer fails, and a device without a connection fails what waits.
    uint64_t timeoutSeconds = 0;
    uint64_t deadSeconds = 0;
    // Whose it is; only who says the same may reconfigure it.
    std::string identifier;
    std::vector<int> sockets;
  };

  ~NbdNetlink();
  // ENODEV, with the cure, where the kernel has no NBD or none that speaks netlink.
  Failure open();
  // Sets the index.
  Failure connect(Device& device) { return configure(device, false); }
  // New sockets for a device whose old ones are dead.
  Failure reconfigure(Device& device) { return configure(device, true); }
  Failure disconnect(int index);

 private:
  struct Message;
  Failure configure(Device& device, bool again);
  // Sends, and reads up to the acknowledgement; answers attributes in between.
  int exchange(Message& message, std::vector<uint8_t>* attributes);

  int fd_ = -1;
  uint16_t family_ = 0;
  uint32_t sequence_ = 0;
};

}  // namespace memferry
