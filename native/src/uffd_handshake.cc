#include "uffd_handshake.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

namespace memferry {
namespace {

constexpr size_t kMaxTextBytes = 64 << 10;
constexpr size_t kMaxMappings = 64;
constexpr size_t kMaxDescriptors = 8;
constexpr uint64_t kMinPage = 4096;
constexpr uint64_t kMaxPage = 1 << 30;

// The few forms of JSON that such a list has: an array of objects whose values are whole numbers, strings or truth values.
// Addresses need all 64 bits, which numbers of JSON do not promise elsewhere.
class Parser {
 public:
  explicit Parser(const std::string& text) : text_(text) {}

  bool take(char wanted) {
    skip();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    at_++;
    return true;
  }
  bool string(std::string& out) {
    if (!take('"')) return false;
    const size_t end = text_.find('"', at_);
    if (end == std::string::npos) return false;
    out = text_.substr(at_, end - at_);
    at_ = end + 1;
    return out.find('\\') == std::string::npos;
  }
  // True also for a value of another kind, which is passed over.
  bool value(bool& isNumber, uint64_t& out) {
    skip();
    isNumber = at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9';
    if (!isNumber) {
      std::string ignored;
      if (at_ < text_.size() && text_[at_] == '"') return string(ignored);
      for (const char* word : {"true", "false", "null"}) {
        if (text_.compare(at_, std::strlen(word), word) != 0) continue;
        at_ += std::strlen(word);
        return true;
      }
      return false;
    }
    out = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; at_++) {
      const uint64_t digit = static_cast<uint64_t>(text_[at_] - '0');
      if (out > (UINT64_MAX - digit) / 10) return false;
      out = out * 10 + digit;
    }
    return true;
  }
  bool atEnd() {
    skip();
    return at_ == text_.size();
  }

 private:
  void skip() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) && text_[at_] != '\0') at_++;
  }

  const std::string& text_;
  size_t at_ = 0;
};

// Whether the list is whole: strings of it have no brackets.
bool isWhole(const std::string& text) {
  const size_t last = text.find_last_not_of(" \t\r\n");
  return last != std::string::npos && text[last] == ']';
}

bool isUserfault(int fd) {
  char target[64];
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = ::readlink(path.c_str(), target, sizeof target);
  return length > 0 && std::string(target, static_cast<size_t>(length)) == "anon_inode:[userfaultfd]";
}

void takeDescriptors(msghdr& message, UffdHandshake& out) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      Descriptor given(fd);
      // Others come along: Firecracker may send its guest's memory as well.
      if (!out.fault && isUserfault(fd)) out.fault = std::move(given);
    }
  }
}

std::string readMapping(Parser& parser, UffdMapping& out) {
  bool hasAddress = false, hasSize = false, hasOffset = false;
  uint64_t pageBytes = 0, olderPageBytes = 0;
  do {
    std::string name;
    if (!parser.string(name) || !parser.take(':')) return "a mapping is not an object of names and values";
    bool isNumber;
    uint64_t number = 0;
    if (!parser.value(isNumber, number)) return "a value is neither a whole number of 64 bits nor a string";
    if (!isNumber) continue;
    if (name == "base_host_virt_addr") {
      out.address = number;
      hasAddress = true;
    } else if (name == "size") {
      out.length = number;
      hasSize = true;
    } else if (name == "offset") {
      out.offset = number;
      hasOffset = true;
    } else if (name == "page_size") {
      pageBytes = number;
    } else if (name == "page_size_kib") {
      olderPageBytes = number;  // which held bytes
    }
  } while (parser.take(','));
  if (!parser.take('}')) return "a mapping does not end";
  if (!hasAddress || !hasSize || !hasOffset) return "a mapping lacks base_host_virt_addr, size or offset";
  out.pageBytes = pageBytes ? pageBytes : olderPageBytes ? olderPageBytes : kMinPage;
  return {};
}

}  // namespace

std::string parseMappings(const std::string& text, std::vector<UffdMapping>& out) {
  Parser parser(text);
  if (!parser.take('[')) return "the list of mappings is no JSON array";
  do {
    if (out.size() == kMaxMappings) return "more than 64 mappings";
    if (!parser.take('{')) return "a mapping is no JSON object";
    UffdMapping mapping;
    if (std::string why = readMapping(parser, mapping); !why.empty()) return why;
    out.push_back(mapping);
  } while (parser.take(','));
  if (!parser.take(']') || !parser.atEnd()) return "the list of mappings does not end";
  return {};
}

std::string checkMappings(const std::vector<UffdMapping>& mappings, uint64_t regionBytes) {
  for (const UffdMapping& mapping : mappings) {
    const uint64_t page = mapping.pageBytes;
    if (page < kMinPage || page > kMaxPage || (page & (page - 1))) return "a page size that no memory has";
    if (mapping.length == 0 || mapping.address % page || mapping.length % page || mapping.offset % page) {
      return "a mapping is not made of whole pages";
    }
    if (mapping.address > UINT64_MAX - mapping.length) return "a mapping ends beyond all addresses";
    const uint64_t end = (regionBytes + page - 1) / page * page;
    if (mapping.length > end || mapping.offset > end - mapping.length) {
      return "a mapping ends beyond the region, which has " + std::to_string(regionBytes) + " bytes";
    }
  }
  // Neither two addresses of one byte nor two bytes of one address: a write to one would not be seen by the other.
  for (const auto field : {&UffdMapping::address, &UffdMapping::offset}) {
    std::vector<UffdMapping> sorted = mappings;
    std::sort(sorted.begin(), sorted.end(),
              [&](const UffdMapping& a, const UffdMapping& b) { return a.*field < b.*field; });
    for (size_t i = 1; i < sorted.size(); i++) {
      if (sorted[i].*field < sorted[i - 1].*field + sorted[i - 1].length) return "two mappings overlap";
    }
  }
  return {};
}

std::string receiveHandshake(int socket, UffdHandshake& out) {
  std::string text;
  while (!isWhole(text)) {
    char piece[4096];
    iovec part{piece, sizeof piece};
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t got;
    do {
      got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got <= 0) return got == 0 ? "the list of mappings does not end" : "the list of mappings did not come in time";
    takeDescriptors(message, out);
    text.append(piece, static_cast<size_t>(got));
    if (text.size() > kMaxTextBytes) return "the list of mappings is longer than 64 KiB";
  }
  if (std::string why = parseMappings(text, out.mappings); !why.empty()) return why;
  if (!out.fault) return "no userfaultfd came with the list of mappings";
  return {};
}

}  // namespace memferry
