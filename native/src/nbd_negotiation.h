// The first part of an NBD connection: fixed newstyle negotiation, on the connection's own thread.
//
// The other side is hostile until proven otherwise: an option is at most 16 KiB, there are at most 128 of
// them, and each may take as long as the socket's timeout says.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "nbd_exports.h"
#include "nbd_socket.h"
#include "nbd_wire.h"

namespace memferry {

enum class NbdTls { off, allow, require };

// What was agreed.
struct NbdAgreement {
  std::shared_ptr<const NbdExport> target;
  bool structured = false;
  bool extended = false;
  bool allocation = false;
  bool dirty = false;
};

inline constexpr uint32_t kNbdAllocationContext = 1;
inline constexpr uint32_t kNbdDirtyContext = 2;
// The largest READ and WRITE. What the specification has clients assume where nobody asks.
inline constexpr uint32_t kNbdMaxPayload = 32 << 20;

class NbdNegotiation {
 public:
  // `startTls` swaps the encrypted socket for one that carries its plain text, and tells whether it could.
  using StartTls = std::function<bool(Descriptor& socket)>;
  NbdNegotiation(const NbdExports& exports, NbdTls tls, StartTls startTls)
      : exports_(exports), tls_(tls), startTls_(std::move(startTls)) {}

  // False: the connection is to be closed. `socket` may become another one.
  bool run(Descriptor& socket, NbdAgreement& agreed);

 private:
  enum class Step { next, transmit, close };
  Step option(nbd::Option option, const std::vector<uint8_t>& body);
  Step exportName(const std::vector<uint8_t>& body);
  Step list(const std::vector<uint8_t>& body);
  Step startTls(const std::vector<uint8_t>& body);
  Step info(nbd::Option option, const std::vector<uint8_t>& body);
  Step metaContexts(nbd::Option option, const std::vector<uint8_t>& body);

  Step reply(nbd::OptionReply type, const std::vector<uint8_t>& body = {});
  Step refuse(nbd::OptionReply type, const std::string& message);
  Step acknowledge() { return reply(nbd::OptionReply::ack); }
  uint16_t transmissionFlags(const NbdExport& target) const;

  const NbdExports& exports_;
  const NbdTls tls_;
  const StartTls startTls_;
  Descriptor* socket_ = nullptr;
  NbdAgreement* agreed_ = nullptr;
  uint32_t current_ = 0;
  bool secure_ = false;
  bool noZeroes_ = false;
  // Contexts hold for the export they were set for, and for no other.
  std::shared_ptr<const NbdExport> contextsOf_;
};

}  // namespace memferry
