#include "nbd_negotiation.h"

namespace memferry {

using nbd::Option;
using nbd::OptionReply;
using nbd::Reader;
using nbd::Writer;

namespace {

constexpr size_t kMaxOptionBytes = 16 << 10;
constexpr unsigned kMaxOptions = 128;
constexpr size_t kMaxNameBytes = 4096;
constexpr uint32_t kMaxQueries = 64;

struct Context {
  const char* name;
  const char* space;
  uint32_t id;
};
constexpr Context kContexts[] = {{"base:allocation", "base:", kNbdAllocationContext},
                                 {"memferry:dirty", "memferry:", kNbdDirtyContext}};

}  // namespace

bool NbdNegotiation::run(Descriptor& socket, NbdAgreement& agreed) {
  socket_ = &socket;
  agreed_ = &agreed;
  std::vector<uint8_t> greeting;
  Writer(greeting).u64(nbd::kGreeting).u64(nbd::kOptionMagic).u16(nbd::kFixedNewstyle | nbd::kNoZeroes);
  if (!sendAll(socket.get(), greeting.data(), greeting.size())) return false;
  uint8_t flagBytes[4];
  if (!receiveAll(socket.get(), flagBytes, sizeof flagBytes)) return false;
  const uint32_t flags = Reader(flagBytes, sizeof flagBytes).u32();
  if (flags & ~uint32_t{nbd::kFixedNewstyle | nbd::kNoZeroes}) return false;
  noZeroes_ = flags & nbd::kNoZeroes;

  for (unsigned count = 0; count < kMaxOptions; count++) {
    uint8_t head[16];
    if (!receiveAll(socket.get(), head, sizeof head)) return false;
    Reader reader(head, sizeof head);
    if (reader.u64() != nbd::kOptionMagic) return false;
    current_ = reader.u32();
    const uint32_t length = reader.u32();
    if (length > kMaxOptionBytes) return false;
    std::vector<uint8_t> body(length);
    if (!receiveAll(socket.get(), body.data(), length)) return false;
    switch (option(static_cast<Option>(current_), body)) {
      case Step::next:
        break;
      case Step::transmit:
        if (agreed.target != contextsOf_) agreed.allocation = agreed.dirty = false;
        return true;
      case Step::close:
        return false;
    }
  }
  return false;
}

NbdNegotiation::Step NbdNegotiation::option(Option option, const std::vector<uint8_t>& body) {
  if (tls_ == NbdTls::require && !secure_ && option != Option::startTls && option != Option::abort) {
    if (option == Option::exportName) return Step::close;  // has no error reply
    return refuse(OptionReply::tlsRequired, "this server wants TLS first");
  }
  switch (option) {
    case Option::exportName:
      return exportName(body);
    case Option::abort:
      acknowledge();
      return Step::close;
    case Option::list:
      return list(body);
    case Option::startTls:
      return startTls(body);
    case Option::info:
    case Option::go:
      return info(option, body);
    case Option::structuredReply:
      if (!body.empty()) return refuse(OptionReply::invalid, "STRUCTURED_REPLY has no data");
      if (agreed_->extended) return refuse(OptionReply::invalid, "extended headers imply it");
      agreed_->structured = true;
      return acknowledge();
    case Option::extendedHeaders:
      if (!body.empty()) return refuse(OptionReply::invalid, "EXTENDED_HEADERS has no data");
      agreed_->structured = agreed_->extended = true;
      return acknowledge();
    case Option::listMetaContext:
    case Option::setMetaContext:
      return metaContexts(option, body);
  }
  return refuse(OptionReply::unsupported, "this option is not known here");
}

NbdNegotiation::Step NbdNegotiation::exportName(const std::vector<uint8_t>& body) {
  const std::string name(body.begin(), body.end());
  agreed_->target = exports_.find(name);
  if (!agreed_->target) return Step::close;
  std::vector<uint8_t> out;
  Writer writer(out);
  writer.u64(agreed_->target->region->bytes()).u16(transmissionFlags(*agreed_->target));
  if (!noZeroes_) writer.zeros(124);
  return sendAll(socket_->get(), out.data(), out.size()) ? Step::transmit : Step::close;
}

NbdNegotiation::Step NbdNegotiation::list(const std::vector<uint8_t>& body) {
  if (!body.empty()) return refuse(OptionReply::invalid, "LIST has no data");
  for (const auto& entry : exports_.all()) {
    std::vector<uint8_t> out;
    Writer(out).u32(static_cast<uint32_t>(entry->name.size())).text(entry->name).text(entry->description);
    if (reply(OptionReply::server, out) == Step::close) return Step::close;
  }
  return acknowledge();
}

NbdNegotiation::Step NbdNegotiation::startTls(const std::vector<uint8_t>& body) {
  if (!body.empty()) return refuse(OptionReply::invalid, "STARTTLS has no data");
  if (secure_) return refuse(OptionReply::invalid, "TLS is on already");
  if (tls_ == NbdTls::off) return refuse(OptionReply::policy, "this server has no certificate");
  if (acknowledge() == Step::close || !startTls_(*socket_)) return Step::close;
  // What was agreed in the clear may be another's doing.
  secure_ = true;
  *agreed_ = {};
  contextsOf_.reset();
  return Step::next;
}

NbdNegotiation::Step NbdNegotiation::info(Option option, const std::vector<uint8_t>& body) {
  Reader reader(body.data(), body.size());
  const uint32_t length = reader.u32();
  if (length > kMaxNameBytes) return refuse(OptionReply::tooBig, "a name has at most 4,096 bytes");
  const std::string name = reader.text(length);
  const uint16_t count = reader.u16();
  bool wantsName = false, wantsDescription = false;
  for (uint16_t i = 0; i < count; i++) {
    const auto wanted = static_cast<nbd::Info>(reader.u16());
    wantsName = wantsName || wanted == nbd::Info::name;
    wantsDescription = wantsDescription || wanted == nbd::Info::description;
  }
  if (!reader.done()) return refuse(OptionReply::invalid, "the option's lengths do not add up");
  const auto target = exports_.find(name);
  if (!target) return refuse(OptionReply::unknown, "there is no such export");

  const auto send = [&](nbd::Info type, const auto& fill) {
    std::vector<uint8_t> out;
    Writer writer(out);
    writer.u16(static_cast<uint16_t>(type));
    fill(writer);
    return reply(OptionReply::info, out) != Step::close;
  };
  const Region& region = *target->region;
  bool sent = send(nbd::Info::exportSize,
                   [&](Writer& out) { out.u64(region.bytes()).u16(transmissionFlags(*target)); });
  if (sent && wantsName) sent = send(nbd::Info::name, [&](Writer& out) { out.text(target->name); });
  if (sent && wantsDescription && !target->description.empty()) {
    sent = send(nbd::Info::description, [&](Writer& out) { out.text(target->description); });
  }
  // Always: a client that did not ask ignores it.
  if (sent) {
    sent = send(nbd::Info::blockSize, [&](Writer& out) { out.u32(1).u32(4096).u32(kNbdMaxPayload); });
  }
  if (!sent || acknowledge() == Step::close) return Step::close;
  if (option == Option::info) return Step::next;
  agreed_->target = target;
  return Step::transmit;
}

NbdNegotiation::Step NbdNegotiation::metaContexts(Option option, const std::vector<uint8_t>& body) {
  const bool set = option == Option::setMetaContext;
  // A SET that fails leaves nothing set.
  if (set) {
    agreed_->allocation = agreed_->dirty = false;
    contextsOf_.reset();
  }
  if (!agreed_->structured) return refuse(OptionReply::invalid, "structured replies come first");
  Reader reader(body.data(), body.size());
  const uint32_t length = reader.u32();
  if (length > kMaxNameBytes) return refuse(OptionReply::tooBig, "a name has at most 4,096 bytes");
  const std::string name = reader.text(length);
  const uint32_t count = reader.u32();
  if (count > kMaxQueries) return refuse(OptionReply::tooBig, "at most 64 contexts in one question");
  std::vector<std::string> queries;
  for (uint32_t i = 0; i < count; i++) queries.push_back(reader.text(reader.u32()));
  if (!reader.done()) return refuse(OptionReply::invalid, "the option's lengths do not add up");
  const auto target = exports_.find(name);
  if (!target) return refuse(OptionReply::unknown, "there is no such export");

  for (const Context& context : kContexts) {
    bool wanted = !set && queries.empty();
    for (const std::string& query : queries) wanted = wanted || query == context.name || (!set && query == context.space);
    if (!wanted) continue;
    std::vector<uint8_t> out;
    Writer(out).u32(set ? context.id : 0).text(context.name);
    if (reply(OptionReply::metaContext, out) == Step::close) return Step::close;
    if (!set) continue;
    (context.id == kNbdAllocationContext ? agreed_->allocation : agreed_->dirty) = true;
  }
  if (set) contextsOf_ = target;
  return acknowledge();
}

NbdNegotiation::Step NbdNegotiation::reply(OptionReply type, const std::vector<uint8_t>& body) {
  std::vector<uint8_t> out;
  Writer(out)
      .u64(nbd::kOptionReplyMagic)
      .u32(current_)
      .u32(static_cast<uint32_t>(type))
      .u32(static_cast<uint32_t>(body.size()))
      .bytes(body.data(), body.size());
  return sendAll(socket_->get(), out.data(), out.size()) ? Step::next : Step::close;
}

NbdNegotiation::Step NbdNegotiation::refuse(OptionReply type, const std::string& message) {
  return reply(type, std::vector<uint8_t>(message.begin(), message.end()));
}

uint16_t NbdNegotiation::transmissionFlags(const NbdExport& target) const {
  // Several connections see one region and no cache of ours, so a flush on any covers all.
  uint16_t flags = nbd::kHasFlags | nbd::kSendFlush | nbd::kSendFua | nbd::kCanMultiConn | nbd::kSendCache;
  if (agreed_->structured) flags |= nbd::kSendDf;
  if (target.readOnly) return flags | nbd::kReadOnly;
  return flags | nbd::kSendTrim | nbd::kSendWriteZeroes | nbd::kSendFastZero;
}

}  // namespace memferry
