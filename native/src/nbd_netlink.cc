#include "nbd_netlink.h"

#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace memferry {
namespace {

// In headers since Linux 5.14.
constexpr uint16_t kBackendIdentifier = 10;
constexpr timeval kPatience{30, 0};

size_t aligned(size_t length) { return (length + NLA_ALIGNTO - 1) & ~size_t{NLA_ALIGNTO - 1}; }

}  // namespace

struct NbdNetlink::Message {
  Message(uint16_t type, uint8_t command, uint8_t version) {
    bytes.resize(NLMSG_HDRLEN + GENL_HDRLEN);
    nlmsghdr header{};
    header.nlmsg_type = type;
    header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    std::memcpy(bytes.data(), &header, sizeof header);
    genlmsghdr generic{};
    generic.cmd = command;
    generic.version = version;
    std::memcpy(bytes.data() + NLMSG_HDRLEN, &generic, sizeof generic);
  }

  void attribute(uint16_t type, const void* data, size_t length) {
    const size_t at = begin(type);
    bytes.insert(bytes.end(), static_cast<const uint8_t*>(data), static_cast<const uint8_t*>(data) + length);
    end(at);
  }
  void u32(uint16_t type, uint32_t value) { attribute(type, &value, sizeof value); }
  void u64(uint16_t type, uint64_t value) { attribute(type, &value, sizeof value); }
  void text(uint16_t type, const std::string& value) { attribute(type, value.c_str(), value.size() + 1); }
  size_t begin(uint16_t type) {
    const size_t at = bytes.size();
    nlattr head{0, type};
    bytes.resize(at + NLA_HDRLEN);
    std::memcpy(bytes.data() + at, &head, sizeof head);
    return at;
  }
  void end(size_t at) {
    const auto length = static_cast<uint16_t>(bytes.size() - at);
    std::memcpy(bytes.data() + at, &length, sizeof length);
    bytes.resize(aligned(bytes.size()));
  }

  std::vector<uint8_t> bytes;
};

NbdNetlink::~NbdNetlink() {
  if (fd_ >= 0) ::close(fd_);
}

Failure NbdNetlink::open() {
  fd_ = ::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
  if (fd_ < 0) return Failure::system(errno, "socket");
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  Message message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
  message.text(CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME);
  std::vector<uint8_t> found;
  const int error = exchange(message, &found);
  if (error == ENOENT) return Failure::named("ENODEV", "this kernel has no NBD client loaded: run sudo modprobe nbd");
  if (error) return Failure::system(error, "netlink");
  for (size_t at = 0; at + NLA_HDRLEN <= found.size();) {
    nlattr head;
    std::memcpy(&head, found.data() + at, sizeof head);
    if (head.nla_len < NLA_HDRLEN || at + head.nla_len > found.size()) break;
    if (head.nla_type == CTRL_ATTR_FAMILY_ID) std::memcpy(&family_, found.data() + at + NLA_HDRLEN, sizeof family_);
    at += aligned(head.nla_len);
  }
  return family_ ? Failure{} : Failure::named("EPROTO", "the kernel named no NBD family");
}

Failure NbdNetlink::configure(Device& device, bool again) {
  Message message(family_, again ? NBD_CMD_RECONFIGURE : NBD_CMD_CONNECT, NBD_GENL_VERSION);
  if (device.index >= 0) message.u32(NBD_ATTR_INDEX, static_cast<uint32_t>(device.index));
  if (!again) {
    message.u64(NBD_ATTR_SIZE_BYTES, device.bytes);
    message.u64(NBD_ATTR_BLOCK_SIZE_BYTES, device.blockBytes);
    message.u64(NBD_ATTR_SERVER_FLAGS, device.flags);
  }
  message.u64(NBD_ATTR_TIMEOUT, device.timeoutSeconds);
  message.u64(NBD_ATTR_DEAD_CONN_TIMEOUT, device.deadSeconds);
  if (!device.identifier.empty()) message.text(kBackendIdentifier, device.identifier);
  const size_t list = message.begin(NBD_ATTR_SOCKETS | NLA_F_NESTED);
  for (const int socket : device.sockets) {
    const size_t item = message.begin(NBD_SOCK_ITEM | NLA_F_NESTED);
    message.u32(NBD_SOCK_FD, static_cast<uint32_t>(socket));
    message.end(item);
  }
  message.end(list);
  std::vector<uint8_t> answer;
  const int error = exchange(message, &answer);
  if (error) return Failure::system(error, again ? "NBD_CMD_RECONFIGURE" : "NBD_CMD_CONNECT");
  for (size_t at = 0; at + NLA_HDRLEN <= answer.size();) {
    nlattr head;
    std::memcpy(&head, answer.data() + at, sizeof head);
    if (head.nla_len < NLA_HDRLEN || at + head.nla_len > answer.size()) break;
    if (head.nla_type == NBD_ATTR_INDEX && head.nla_len >= NLA_HDRLEN + sizeof(uint32_t)) {
      uint32_t index;
      std::memcpy(&index, answer.data() + at + NLA_HDRLEN, sizeof index);
      device.index = static_cast<int>(index);
    }
    at += aligned(head.nla_len);
  }
  return device.index >= 0 ? Failure{} : Failure::named("EPROTO", "the kernel named no device");
}

Failure NbdNetlink::disconnect(int index) {
  Message message(family_, NBD_CMD_DISCONNECT, NBD_GENL_VERSION);
  message.u32(NBD_ATTR_INDEX, static_cast<uint32_t>(index));
  const int error = exchange(message, nullptr);
  // Gone already: that is what is wanted.
  return error && error != EINVAL && error != ENODEV ? Failure::system(error, "NBD_CMD_DISCONNECT") : Failure{};
}

int NbdNetlink::exchange(Message& message, std::vector<uint8_t>* attributes) {
  nlmsghdr header;
  std::memcpy(&header, message.bytes.data(), sizeof header);
  header.nlmsg_len = static_cast<uint32_t>(message.bytes.size());
  header.nlmsg_seq = ++sequence_;
  std::memcpy(message.bytes.data(), &header, sizeof header);
  if (::send(fd_, message.bytes.data(), message.bytes.size(), 0) < 0) return errno;
  alignas(nlmsghdr) uint8_t buffer[16 << 10];
  for (;;) {
    const ssize_t got = ::recv(fd_, buffer, sizeof buffer, 0);
    if (got < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN ? ETIMEDOUT : errno;
    }
    size_t left = static_cast<size_t>(got);
    for (uint8_t* at = buffer; left >= sizeof(nlmsghdr);) {
      nlmsghdr part;
      std::memcpy(&part, at, sizeof part);
      if (part.nlmsg_len < sizeof part || part.nlmsg_len > left) break;
      if (part.nlmsg_seq == sequence_) {
        if (part.nlmsg_type == NLMSG_ERROR) {
          nlmsgerr result;
          std::memcpy(&result, at + NLMSG_HDRLEN, sizeof result);
          return -result.error;
        }
        if (attributes && part.nlmsg_len >= NLMSG_HDRLEN + GENL_HDRLEN) {
          attributes->assign(at + NLMSG_HDRLEN + GENL_HDRLEN, at + part.nlmsg_len);
        }
      }
      const size_t step = std::min<size_t>(NLMSG_ALIGN(part.nlmsg_len), left);
      at += step;
      left -= step;
    }
  }
}

}  // namespace memferry
