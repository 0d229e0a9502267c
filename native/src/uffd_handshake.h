// What a program sends to have its memory served: its userfaultfd, and a list of what it has mapped where. The layout is
// the one that Firecracker sends to a page-fault handler:
//
//     [{"base_host_virt_addr": 139..., "size": 268435456, "offset": 0, "page_size": 4096}, ...]
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nbd_socket.h"
#include "uffd_space.h"

namespace memferry {

struct UffdHandshake {
  std::vector<UffdMapping> mappings;
  Descriptor fault;
};

// Reads it from a connected socket that has a time-out. Empty, or why it is refused.
std::string receiveHandshake(int socket, UffdHandshake& out);
// Of hostile text. Empty, or what is wrong with it.
std::string parseMappings(const std::string& text, std::vector<UffdMapping>& out);
// Whether they fit a region of so many bytes. Empty, or why not.
std::string checkMappings(const std::vector<UffdMapping>& mappings, uint64_t regionBytes);

}  // namespace memferry
