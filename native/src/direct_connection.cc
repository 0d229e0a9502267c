#include "direct_connection.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace memferry::direct {
namespace {

// Numbers of relay/protocol/errors.ts: FRAME_MALFORMED, DEADLINE_EXCEEDED.
constexpr uint16_t kMalformed = 2;
constexpr uint16_t kSilent = 17;
constexpr uint64_t kForever = UINT64_MAX;
// So long may an acknowledgement wait for a second packet.
constexpr uint64_t kAckDelay = 2'000;
constexpr uint64_t kKeepAlive = 500'000;
constexpr uint64_t kProbeTimeoutMax = 500'000;
constexpr uint64_t kFirstWindow = 2 * 1024 * 1024;
constexpr uint64_t kWindowMax = 24 * 1024 * 1024;
// Of all streams together: what a peer can make this side hold.
constexpr uint64_t kWindowsMax = 160 * 1024 * 1024;
constexpr unsigned kReceivedRangesMax = 512;
constexpr unsigned kBatchPacketsMax = 48;
constexpr size_t kBatchBytesMax = 62 * 1024;
constexpr uint64_t kPatienceMax = 8;
constexpr unsigned kTimeoutsOfBlackHole = 3;
// Padding that is sent to learn the path, at most.
constexpr uint64_t kWarmBytesMax = 1024 * 1024;
// Sizes that links have: PPPoE and tunnels, IPv6 and IPv4 over Ethernet, jumbo frames.
constexpr size_t kMtuSteps[] = {1392, 1452, 1472, 8952};
constexpr unsigned kMtuStepsCount = sizeof kMtuSteps / sizeof kMtuSteps[0];
constexpr unsigned kMtuTriesMax = 3;

}  // namespace

Connection::Connection(const ConnectionOptions& options, uint64_t now)
    : options_(options), rate_(now, options.rtt, options.bytesPerS / 2), sendAt_(now), heardAt_(now) {
  rtt_ = std::max<uint64_t>(options.rtt, 100);
  latestRtt_ = rtt_;
  rttVariation_ = rtt_ / 2;
  peerLimits_.fill(kFirstWindow);
}

ReceiveStream& Connection::receiveStream(unsigned stream) {
  if (!receives_[stream]) {
    receives_[stream] = std::make_unique<ReceiveStream>(kFirstWindow);
    windows_ += kFirstWindow;
  }
  return *receives_[stream];
}

SendStream& Connection::sendStream(unsigned stream) {
  if (!sends_[stream]) sends_[stream] = std::make_unique<SendStream>(peerLimits_[stream]);
  return *sends_[stream];
}

bool Connection::expect(const uint8_t* packets, size_t packetBytes, size_t count, uint8_t* macs) const {
  if (closed_ || packetBytes < kHeaderBytes + kMacBytes || packetBytes > kMaxPacketBytes) return false;
  Reader reader(packets, packetBytes);
  if (reader.u8() != kMagic || reader.u8() != kVersion || reader.u16() != packetBytes || reader.u32() != options_.id) return false;
  authenticateMany(options_.receiveKey.data(), packets, packetBytes, count, macs);
  return true;
}

bool Connection::receive(const uint8_t* data, size_t length, uint64_t now, bool& newest, const uint8_t* mac) {
  newest = false;
  if (closed_ || length < kHeaderBytes + kMacBytes || length > kMaxPacketBytes) return false;
  Reader reader(data, length - kMacBytes);
  if (reader.u8() != kMagic || reader.u8() != kVersion || reader.u16() != length || reader.u32() != options_.id) return false;
  const uint64_t number = reader.u64();
  const uint8_t* code = data + length - kMacBytes;
  if (mac ? !equalMacs(mac, code) : !authentic(options_.receiveKey.data(), data, length - kMacBytes, code)) {
    stats_.packetsRefused++;
    return false;
  }
  // Seen before: repeated by the network, or by somebody.
  if (number <= receivedFloor_ || received_.contains(number)) {
    stats_.packetsRefused++;
    return true;
  }
  heardAt_ = now;
  stats_.packetsReceived++;
  stats_.bytesReceived += length;
  newest = number > largestReceived_;
  const bool gap = number != largestReceived_ + 1;
  if (newest) {
    largestReceived_ = number;
    largestReceivedAt_ = now;
  }
  received_.add(number, number + 1);
  while (received_.size() > kReceivedRangesMax) {
    receivedFloor_ = received_.firstEnd() - 1;
    received_.dropFirst();
  }
  bool eliciting = false;
  if (!frames(reader, now, eliciting)) {
    close(kMalformed, "the other peer broke the protocol of the direct path");
    return true;
  }
  if (eliciting) {
    unacknowledged_++;
    // A gap is news for the sender.
    const uint64_t due = gap ? now : now + kAckDelay;
    ackDueAt_ = ackDueAt_ == 0 ? due : std::min(ackDueAt_, due);
  }
  return true;
}

bool Connection::frames(Reader& reader, uint64_t now, bool& eliciting) {
  while (reader.left() > 0 && !closed_) {
    switch (static_cast<Frame>(reader.u8())) {
      case Frame::padding:
        break;
      case Frame::stream:
        if (!streamFrame(reader, eliciting)) return false;
        break;
      case Frame::ack:
        if (!ackFrame(reader, now)) return false;
        break;
      case Frame::window: {
        eliciting = true;
        const unsigned stream = reader.u16();
        const uint64_t limit = reader.u64();
        if (!reader.ok() || stream >= kStreams) return false;
        peerLimits_[stream] = std::max(peerLimits_[stream], limit);
        if (sends_[stream]) sends_[stream]->raiseLimit(limit);
        break;
      }
      case Frame::ping:
        eliciting = true;
        break;
      case Frame::close: {
        const uint16_t code = reader.u16();
        const size_t length = reader.u8();
        const uint8_t* text = reader.bytes(length);
        if (!text || length > kReasonBytesMax) return false;
        closed_ = true;
        closeCode_ = code;
        closeReason_.assign(reinterpret_cast<const char*>(text), length);
        break;
      }
      default:
        return false;
    }
  }
  return reader.ok();
}

bool Connection::streamFrame(Reader& reader, bool& eliciting) {
  eliciting = true;
  const uint8_t flags = reader.u8();
  const unsigned stream = reader.u16();
  const uint64_t offset = reader.u64();
  const size_t length = reader.u16();
  const uint8_t* data = reader.bytes(length);
  if (!reader.ok() || stream >= kStreams) return false;
  ReceiveStream& target = receiveStream(stream);
  const uint64_t before = target.readable();
  if (!target.receive(offset, data, length, (flags & kLastBytes) != 0)) return false;
  if (target.readable() > before || target.finished()) readable_[stream] = true;
  return true;
}

bool Connection::ackFrame(Reader& reader, uint64_t now) {
  const uint64_t largest = reader.u64();
  const uint64_t delay = reader.u32();
  const unsigned count = reader.u8();
  if (!reader.ok() || largest >= nextNumber_ || count == 0 || count > kAckRangesMax) return false;
  uint64_t top = largest;
  uint64_t acknowledgedBytes = 0;
  const Sent* newest = nullptr;
  bool anyEliciting = false;
  for (unsigned i = 0; i < count; i++) {
    // The first has no gap before it.
    const uint64_t gap = i == 0 ? 0 : reader.u32();
    const uint64_t length = reader.u32();
    if (!reader.ok() || length == 0 || top + 1 < gap + length) return false;
    const uint64_t end = top + 1 - gap;
    const uint64_t start = end - length;
    for (uint64_t number = std::max(start, base_); number < end; number++) {
      Sent& sent = sent_[static_cast<size_t>(number - base_)];
      if (sent.fate == Fate::acknowledged) continue;
      if (sent.fate == Fate::lost) {
        // It was only late: more patience from now on.
        if (sent.eliciting && !sent.mtuProbe) patience_ = std::min(kPatienceMax, patience_ + 1);
      } else {
        inFlight_ -= sent.eliciting ? sent.bytes : 0;
      }
      if (sent.eliciting) {
        acknowledgedBytes += sent.bytes;
        anyEliciting = true;
      }
      if (!newest || sent.at >= newest->at) newest = &sent;
      settle(sent);
    }
    top = start == 0 ? 0 : start - 1;
  }
  if (!newest) return true;
  timeouts_ = 0;
  if (largest > largestAcknowledged_) {
    largestAcknowledged_ = largest;
    const Sent& last = sent_[static_cast<size_t>(largest - base_)];
    if (anyEliciting && now > last.at) {
      const uint64_t sample = std::max<uint64_t>(1, now - last.at > delay ? now - last.at - delay : now - last.at);
      latestRtt_ = sample;
      const uint64_t difference = rtt_ > sample ? rtt_ - sample : sample - rtt_;
      rttVariation_ = (3 * rttVariation_ + difference) / 4;
      rtt_ = (7 * rtt_ + sample) / 8;
      rate_.roundTrip(sample, now);
    }
  }
  rate_.delivered(acknowledgedBytes, now);
  uint64_t lostBytes = 0;
  const DeliveryMark mark = newest->mark;
  const uint64_t newestAt = newest->at;
  loseOld(now, lostBytes);
  if (acknowledgedBytes > 0) rate_.acknowledged(mark, newestAt, now, inFlight_, lostBytes);
  forgetOld(now);
  return true;
}

void Connection::settle(Sent& sent) {
  sent.fate = Fate::acknowledged;
  for (unsigned i = 0; i < sent.segments; i++) sends_[sent.segment[i].stream]->acknowledged(sent.segment[i]);
  if (sent.mtuProbe && mtuProbing_) {
    packetBytes_ = std::max<size_t>(packetBytes_, sent.bytes);
    mtuProbing_ = false;
    mtuStep_++;
    mtuTries_ = 0;
  }
}

uint64_t Connection::lossDelay() const {
  const uint64_t base = std::max(rtt_, latestRtt_);
  return base + std::max<uint64_t>(1'000, base * patience_ / 8);
}

void Connection::lose(Sent& sent) {
  sent.fate = Fate::lost;
  if (sent.eliciting) inFlight_ -= sent.bytes;
  for (unsigned i = 0; i < sent.segments; i++) sends_[sent.segment[i].stream]->lost(sent.segment[i]);
  if (sent.window) {
    for (unsigned stream = 0; stream < kStreams; stream++) windowDue_[stream] = receives_[stream] != nullptr;
    anyWindowDue_ = true;
  }
  if (sent.mtuProbe) {
    mtuProbing_ = false;
    // Those of this size may just have met a full queue.
    if (++mtuTries_ >= kMtuTriesMax) mtuStep_ = kMtuStepsCount;
  } else if (sent.eliciting) {
    stats_.packetsLost++;
  }
}

void Connection::loseOld(uint64_t now, uint64_t& lostBytes) {
  const uint64_t delay = lossDelay();
  lostAt_ = 0;
  for (uint64_t number = base_; number < largestAcknowledged_; number++) {
    Sent& sent = sent_[static_cast<size_t>(number - base_)];
    if (sent.fate != Fate::inFlight) continue;
    if (sent.at + delay > now) {
      lostAt_ = sent.at + delay;
      return;
    }
    if (!sent.mtuProbe) lostBytes += sent.bytes;
    lose(sent);
  }
}

// Lost ones are remembered for a while: an acknowledgement that comes late says that they were not.
void Connection::forgetOld(uint64_t now) {
  while (!sent_.empty()) {
    const Sent& first = sent_.front();
    if (first.fate == Fate::inFlight) return;
    if (first.fate == Fate::lost && first.at + 2 * lossDelay() > now) return;
    sent_.pop_front();
    base_++;
  }
}

uint64_t Connection::probeTimeout() const {
  const uint64_t once = rtt_ + std::max<uint64_t>(4 * rttVariation_, 2'000) + kAckDelay;
  return std::min(once << std::min(timeouts_, 6u), std::max(kProbeTimeoutMax, once));
}

void Connection::tick(uint64_t now) {
  if (closed_) return;
  if (now - heardAt_ > kSilenceMax) {
    close(kSilent, "the other peer is silent");
    return;
  }
  uint64_t lostBytes = 0;
  if (lostAt_ != 0 && now >= lostAt_) loseOld(now, lostBytes);
  rate_.lost(lostBytes);
  forgetOld(now);
  if (inFlight_ > 0 && now >= lastElicitingAt_ + probeTimeout()) {
    timeouts_++;
    lastElicitingAt_ = now;
    if (timeouts_ >= kTimeoutsOfBlackHole && packetBytes_ > kSafePacketBytes) {
      packetBytes_ = kSafePacketBytes;
      mtuStep_ = kMtuStepsCount;
    }
    // What was sent first goes again: it is what the other side waits for. Once nothing at all has come for a while,
    // everything is taken as lost, so that the path, when it is back, is not filled with what nobody counts.
    unsigned again = 0;
    for (Sent& sent : sent_) {
      if (sent.fate != Fate::inFlight || !sent.eliciting) continue;
      lose(sent);
      if (timeouts_ < 2 && ++again == 2) break;
    }
    probesDue_ = 2;
  }
  if (now >= lastElicitingAt_ + kKeepAlive && inFlight_ == 0) probesDue_ = std::max(probesDue_, 1u);
}

uint64_t Connection::nextAt(uint64_t now) const {
  if (closed_) return closesDue_ > 0 ? now : kForever;
  uint64_t at = heardAt_ + kSilenceMax + 1;
  if (lostAt_ != 0) at = std::min(at, lostAt_);
  if (ackDueAt_ != 0) at = std::min(at, ackDueAt_);
  at = std::min(at, lastElicitingAt_ + (inFlight_ > 0 ? probeTimeout() : kKeepAlive));
  if (probesDue_ > 0 || anyWindowDue_) at = now;
  if ((hasStreamData() || warms()) && inFlight_ < rate_.window()) at = std::min(at, sendAt_);
  return std::max(at, now);
}

bool Connection::hasStreamData() const {
  for (const auto& stream : sends_) {
    if (stream && stream->hasNext()) return true;
  }
  return false;
}

// Agreeing on keys takes the peers two round trips or more, in which the path would learn nothing. Only once the other
// side is heard, and no longer than nothing stands in a queue: what it says must not wait behind padding.
bool Connection::warms() const {
  return options_.warm && !bulkBegun_ && largestReceived_ > 0 && warmBytes_ < kWarmBytesMax && rate_.startingUp() && !rate_.queueing();
}

bool Connection::transmit(uint64_t now, Batch& batch) {
  batch.bytes.clear();
  batch.probe = false;
  if (closed_) {
    if (closesDue_ == 0) return false;
    closesDue_--;
    batch.bytes.resize(kSafePacketBytes);
    Writer writer(batch.bytes.data(), batch.bytes.size() - kMacBytes);
    writer.skip(kHeaderBytes);
    writer.u8(static_cast<uint8_t>(Frame::close));
    writer.u16(closeCode_);
    writer.u8(static_cast<uint8_t>(closeReason_.size()));
    writer.bytes(closeReason_.data(), closeReason_.size());
    Sent sent;
    batch.bytes.resize(finish(writer, batch.bytes.data(), sent, now));
    batch.packetBytes = batch.bytes.size();
    sealMany(options_.sendKey.data(), batch.bytes.data(), batch.bytes.size(), batch.packetBytes);
    return true;
  }
  const bool data = hasStreamData();
  const bool warm = !data && warms();
  const bool may = (data || warm) && now >= sendAt_ && inFlight_ < rate_.window();
  const bool ackDue = ackDueAt_ != 0 && (now >= ackDueAt_ || unacknowledged_ >= 2);
  if (!data && !warm) rate_.idle(inFlight_);
  if (!may && probesDue_ == 0 && !ackDue && !anyWindowDue_) return false;
  if (may && probeMtu(now, batch)) return true;

  const size_t size = packetBytes_;
  batch.packetBytes = size;
  const size_t limit = may ? std::clamp<size_t>(static_cast<size_t>(rate_.quantum()), size, kBatchBytesMax) : size;
  batch.bytes.resize(std::min(std::max(limit, size), size * kBatchPacketsMax));
  size_t length = 0;
  while (length + size <= batch.bytes.size()) {
    const size_t made = build(batch.bytes.data() + length, size, now, may);
    if (made == 0) break;
    length += made;
    if (made < size || inFlight_ >= rate_.window()) break;
  }
  batch.bytes.resize(length);
  if (length == 0) return false;
  sealMany(options_.sendKey.data(), batch.bytes.data(), batch.bytes.size(), batch.packetBytes);
  if (may) {
    const uint64_t takes = static_cast<uint64_t>(static_cast<double>(length) * 1e6 / std::max(1.0, rate_.pace()));
    // A late timer may be made up for, but not by a burst.
    sendAt_ = std::max(sendAt_, now - std::min(now, rate_.catchUp())) + takes;
  }
  return true;
}

bool Connection::probeMtu(uint64_t now, Batch& batch) {
  while (mtuStep_ < kMtuStepsCount && kMtuSteps[mtuStep_] <= packetBytes_) mtuStep_++;
  if (mtuProbing_ || mtuStep_ >= kMtuStepsCount || now < mtuProbeAt_ || largestAcknowledged_ == 0) return false;
  mtuProbeAt_ = now + std::max<uint64_t>(rtt_, 20'000);
  const size_t size = kMtuSteps[mtuStep_];
  batch.bytes.assign(size, 0);
  batch.packetBytes = size;
  batch.probe = true;
  Writer writer(batch.bytes.data(), size - kMacBytes);
  writer.skip(kHeaderBytes);
  writer.u8(static_cast<uint8_t>(Frame::ping));
  writer.skip(writer.room());
  Sent sent;
  sent.eliciting = true;
  sent.mtuProbe = true;
  mtuProbing_ = true;
  finish(writer, batch.bytes.data(), sent, now);
  sealMany(options_.sendKey.data(), batch.bytes.data(), batch.bytes.size(), batch.packetBytes);
  return true;
}

size_t Connection::build(uint8_t* out, size_t room, uint64_t now, bool bulk) {
  Writer writer(out, room - kMacBytes);
  writer.skip(kHeaderBytes);
  Sent sent;
  if (ackDueAt_ != 0) writeAck(writer, now);
  writeWindows(writer, now, sent);
  if (bulk || probesDue_ > 0) writeStreams(writer, sent);
  if (bulk && !sent.eliciting && warms()) writePadding(writer, sent);
  if (probesDue_ > 0) {
    probesDue_--;
    if (!sent.eliciting && writer.room() > 0) {
      writer.u8(static_cast<uint8_t>(Frame::ping));
      sent.eliciting = true;
    }
  }
  if (writer.length() == kHeaderBytes) return 0;
  return finish(writer, out, sent, now);
}

void Connection::writeAck(Writer& writer, uint64_t now) {
  ackDueAt_ = 0;
  unacknowledged_ = 0;
  if (received_.empty()) return;
  const auto& ranges = received_.all();
  const size_t fit = (writer.room() - kAckFrameBytes) / kAckRangeBytes;
  const unsigned count = static_cast<unsigned>(std::min({ranges.size(), fit + 1, static_cast<size_t>(kAckRangesMax)}));
  writer.u8(static_cast<uint8_t>(Frame::ack));
  writer.u64(largestReceived_);
  writer.u32(static_cast<uint32_t>(std::min<uint64_t>(now - largestReceivedAt_, UINT32_MAX)));
  writer.u8(static_cast<uint8_t>(count));
  uint64_t above = 0;
  unsigned written = 0;
  for (auto range = ranges.rbegin(); written < count; ++range, ++written) {
    // Longer than 2^32 - 1 packets a range does not get: numbers below are told as missing, and were told before.
    const uint64_t length = std::min<uint64_t>(range->second - range->first, UINT32_MAX);
    if (written > 0) writer.u32(static_cast<uint32_t>(std::min<uint64_t>(above - range->second, UINT32_MAX)));
    writer.u32(static_cast<uint32_t>(length));
    above = range->second - length;
  }
}

void Connection::writeWindows(Writer& writer, uint64_t now, Sent& sent) {
  if (!anyWindowDue_) return;
  for (unsigned stream = 0; stream < kStreams; stream++) {
    if (!windowDue_[stream]) continue;
    if (writer.room() < kWindowFrameBytes) return;
    windowDue_[stream] = false;
    ReceiveStream& receive = *receives_[stream];
    const uint64_t before = receive.window();
    const uint64_t growth = std::min(kWindowMax > before ? kWindowMax - before : 0, kWindowsMax > windows_ ? kWindowsMax - windows_ : 0);
    const uint64_t limit = receive.advertise(now, rtt_, growth);
    windows_ += receive.window() - before;
    writer.u8(static_cast<uint8_t>(Frame::window));
    writer.u16(static_cast<uint16_t>(stream));
    writer.u64(limit);
    sent.eliciting = true;
    sent.window = true;
  }
  anyWindowDue_ = false;
}

// Control and what is urgent first, then the data streams in turn.
void Connection::writeStreams(Writer& writer, Sent& sent) {
  const auto put = [&](unsigned stream) {
    SendStream* from = sends_[stream].get();
    if (!from || sent.segments == kSegmentsMax || writer.room() <= kStreamFrameBytes) return false;
    Segment segment;
    if (!from->next(writer.room() - kStreamFrameBytes, segment)) return false;
    segment.stream = static_cast<uint16_t>(stream);
    writer.u8(static_cast<uint8_t>(Frame::stream));
    writer.u8(segment.last ? kLastBytes : 0);
    writer.u16(segment.stream);
    writer.u64(segment.offset);
    writer.u16(segment.length);
    from->copy(segment, writer.at());
    writer.skip(segment.length);
    sent.segment[sent.segments++] = segment;
    sent.eliciting = true;
    return true;
  };
  for (unsigned stream = 0; stream < 2; stream++) {
    while (put(stream)) {
    }
  }
  for (unsigned i = 0; i < kStreams - 2; i++) {
    turn_ = turn_ + 1 >= kStreams ? 2 : turn_ + 1;
    put(turn_);
    if (sent.segments == kSegmentsMax || writer.room() <= kStreamFrameBytes) break;
  }
}

void Connection::writePadding(Writer& writer, Sent& sent) {
  warmBytes_ += writer.room();
  writer.u8(static_cast<uint8_t>(Frame::ping));
  std::memset(writer.at(), 0, writer.room());
  writer.skip(writer.room());
  sent.eliciting = true;
}

size_t Connection::finish(Writer& writer, uint8_t* out, Sent& sent, uint64_t now) {
  Writer header(out, kHeaderBytes);
  header.u8(kMagic);
  header.u8(kVersion);
  const size_t length = writer.length() + kMacBytes;
  header.u16(static_cast<uint16_t>(length));
  header.u32(options_.id);
  header.u64(nextNumber_++);
  sent.at = now;
  sent.bytes = static_cast<uint32_t>(length);
  sent.mark = rate_.sent(now, inFlight_);
  stats_.packetsSent++;
  stats_.bytesSent += length;
  if (sent.eliciting) {
    inFlight_ += length;
    lastElicitingAt_ = now;
  } else {
    // Never acknowledged by itself: nobody waits for it.
    sent.fate = Fate::acknowledged;
  }
  sent_.push_back(sent);
  return length;
}

void Connection::tooLarge(size_t packetBytes) {
  if (packetBytes <= kSafePacketBytes) return;
  mtuStep_ = kMtuStepsCount;
  if (packetBytes_ >= packetBytes) packetBytes_ = kSafePacketBytes;
}

void Connection::write(unsigned stream, const uint8_t* data, size_t length) {
  if (closed_) return;
  bulkBegun_ |= stream >= 2 && length > kSafePacketBytes;
  sendStream(stream).write(data, length);
}

void Connection::end(unsigned stream) {
  if (!closed_) sendStream(stream).end();
}

size_t Connection::read(unsigned stream, uint8_t* out, size_t length) {
  if (!receives_[stream]) return 0;
  ReceiveStream& from = *receives_[stream];
  const size_t count = from.read(out, length);
  if (count > 0 && from.wantsUpdate()) {
    windowDue_[stream] = true;
    anyWindowDue_ = true;
  }
  return count;
}

std::vector<unsigned> Connection::takeReadable() {
  std::vector<unsigned> streams;
  for (unsigned stream = 0; stream < kStreams; stream++) {
    if (std::exchange(readable_[stream], false)) streams.push_back(stream);
  }
  return streams;
}

bool Connection::settled() const {
  return std::all_of(sends_.begin(), sends_.end(), [](const auto& stream) { return !stream || stream->settled(); });
}

void Connection::close(uint16_t code, std::string reason) {
  if (closed_) return;
  closed_ = true;
  closeCode_ = code;
  reason.resize(std::min(reason.size(), kReasonBytesMax));
  closeReason_ = std::move(reason);
  // It is not acknowledged: said more than once, one is likely to arrive, and silence says it too.
  closesDue_ = 3;
}

ConnectionStats Connection::stats(uint64_t now) const {
  ConnectionStats stats = stats_;
  stats.rtt = rtt_;
  stats.minRtt = rate_.minRtt();
  stats.bandwidth = rate_.bandwidth();
  stats.inFlight = inFlight_;
  stats.window = rate_.window();
  stats.packetBytes = packetBytes_;
  stats.silentFor = now > heardAt_ ? now - heardAt_ : 0;
  return stats;
}

}  // namespace memferry::direct
