// Two connections over a network of numbers: no sockets, no clock, the same for the same seed.
//
//   simulate SEED BYTES RATE_MBIT RTT_MS LOSS_PERCENT JITTER_MS QUEUE_MS [CUT_AT_MS CUT_FOR_MS [IDLE_MS [WARM [PAUSE_MS]]]]
//
// PAUSE_MS: of each twice that time, so long nothing new is written. One way carries the bytes, on four streams, and checks each. Prints one line of JSON.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <vector>

#include "../../../native/src/direct_connection.h"

using namespace memferry::direct;

namespace {

struct Packet {
  std::vector<uint8_t> bytes;
};

class Way {
 public:
  double bytesPerUs;
  uint64_t delay, jitter, queueUs;
  double loss;
  uint64_t cutAt = UINT64_MAX, cutUntil = 0;
  std::multimap<uint64_t, Packet> under;
  uint64_t freeAt = 0, dropped = 0, queueMax = 0;

  void send(uint64_t now, const Batch& batch, std::mt19937_64& random) {
    for (size_t at = 0; at < batch.bytes.size(); at += batch.packetBytes) {
      const size_t length = std::min(batch.packetBytes, batch.bytes.size() - at);
      if (now >= cutAt && now < cutUntil) continue;
      if (length > 1472) continue;
      freeAt = std::max(freeAt, now);
      queueMax = std::max(queueMax, freeAt - now);
      if (freeAt - now > queueUs) {
        dropped++;
        continue;
      }
      freeAt += static_cast<uint64_t>(static_cast<double>(length + 28) / bytesPerUs + 0.5);
      if (std::uniform_real_distribution<>(0, 1)(random) < loss) continue;
      const uint64_t late = jitter ? std::uniform_int_distribution<uint64_t>(0, jitter)(random) : 0;
      under.emplace(freeAt + delay + late, Packet{{batch.bytes.begin() + static_cast<long>(at), batch.bytes.begin() + static_cast<long>(at + length)}});
    }
  }
};

uint8_t byteAt(unsigned stream, uint64_t offset) { return static_cast<uint8_t>((offset * 2654435761u >> 13) + stream * 7); }

}  // namespace

int main(int count, char** values) {
  if (count < 8) return 2;
  const auto value = [&](int i) { return i < count ? std::atof(values[i]) : 0.0; };
  std::mt19937_64 random(static_cast<uint64_t>(value(1)));
  const uint64_t total = static_cast<uint64_t>(value(2));
  ConnectionOptions options;
  options.id = 7;
  options.rtt = static_cast<uint64_t>(value(4) * 1000);
  options.sendKey.fill(1);
  options.receiveKey.fill(2);
  ConnectionOptions mirrored = options;
  options.warm = value(11) != 0;
  std::swap(mirrored.sendKey, mirrored.receiveKey);
  uint64_t now = 1'000'000;
  // So long the two only ping each other.
  const uint64_t start = now + static_cast<uint64_t>(value(10) * 1000);
  Connection source(options, now), target(mirrored, now);
  Way forth, back;
  for (Way* way : {&forth, &back}) {
    way->bytesPerUs = value(3) / 8;
    way->delay = static_cast<uint64_t>(value(4) * 500);
    way->loss = value(5) / 100;
    way->jitter = static_cast<uint64_t>(value(6) * 1000);
    way->queueUs = static_cast<uint64_t>(value(7) * 1000);
    if (count > 9) {
      way->cutAt = start + static_cast<uint64_t>(value(8) * 1000);
      way->cutUntil = way->cutAt + static_cast<uint64_t>(value(9) * 1000);
    }
  }
  constexpr unsigned kData = 4;
  const uint64_t pauseUs = static_cast<uint64_t>(value(12) * 1000);
  uint64_t written[kData] = {}, read[kData] = {};
  const uint64_t each = total / kData;
  std::vector<uint8_t> buffer(64 * 1024);
  bool wrong = false;
  uint64_t finished = 0;
  Batch batch;
  const uint64_t limit = start + 600'000'000;
  while (now < limit && !source.closed() && !target.closed()) {
    const bool pauses = pauseUs > 0 && now / pauseUs % 2 == 1;
    for (unsigned i = 0; i < kData && now >= start && !pauses; i++) {
      while (written[i] < each && source.unsent(2 + i) < 256 * 1024) {
        const size_t length = static_cast<size_t>(std::min<uint64_t>(buffer.size(), each - written[i]));
        for (size_t k = 0; k < length; k++) buffer[k] = byteAt(i, written[i] + k);
        source.write(2 + i, buffer.data(), length);
        written[i] += length;
        if (written[i] == each) source.end(2 + i);
      }
    }
    source.tick(now);
    target.tick(now);
    while (source.transmit(now, batch)) forth.send(now, batch, random);
    while (target.transmit(now, batch)) back.send(now, batch, random);
    bool done = true;
    for (unsigned i = 0; i < kData; i++) {
      while (target.readable(2 + i) > 0) {
        const size_t length = target.read(2 + i, buffer.data(), buffer.size());
        for (size_t k = 0; k < length; k++) wrong |= buffer[k] != byteAt(i, read[i] + k);
        read[i] += length;
      }
      done &= target.finished(2 + i);
    }
    while (target.transmit(now, batch)) back.send(now, batch, random);
    if (done && finished == 0) finished = now;
    if (done && source.settled()) break;
    uint64_t next = std::min(source.nextAt(now), target.nextAt(now));
    if (!forth.under.empty()) next = std::min(next, forth.under.begin()->first);
    if (now < start) next = std::min(next, start);
    if (pauses) next = std::min(next, (now / pauseUs + 1) * pauseUs);
    if (!back.under.empty()) next = std::min(next, back.under.begin()->first);
    now = std::max(now + 1, next);
    bool newest;
    for (auto* way : {&forth, &back}) {
      Connection& to = way == &forth ? target : source;
      while (!way->under.empty() && way->under.begin()->first <= now) {
        const Packet packet = std::move(way->under.begin()->second);
        way->under.erase(way->under.begin());
        to.receive(packet.bytes.data(), packet.bytes.size(), now, newest);
      }
    }
  }
  const ConnectionStats stats = source.stats(now);
  const double seconds = static_cast<double>((finished ? finished : now) - start) / 1e6;
  const double ideal = static_cast<double>(total) / (value(3) * 1e6 / 8);
  std::printf(
      "{\"finished\":%s,\"wrong\":%s,\"seconds\":%.3f,\"ideal\":%.3f,\"ratio\":%.3f,\"sent\":%llu,\"lost\":%llu,\"dropped\":%llu,"
      "\"rttMs\":%.1f,\"minRttMs\":%.1f,\"packetBytes\":%llu,\"queueMaxMs\":%.1f,\"closed\":\"%s\"}\n",
      finished ? "true" : "false", wrong ? "true" : "false", seconds, ideal, seconds / ideal,
      static_cast<unsigned long long>(stats.packetsSent), static_cast<unsigned long long>(stats.packetsLost),
      static_cast<unsigned long long>(forth.dropped), static_cast<double>(stats.rtt) / 1e3,
      static_cast<double>(stats.minRtt) / 1e3, static_cast<unsigned long long>(stats.packetBytes),
      static_cast<double>(forth.queueMax) / 1e3, (source.closed() ? source.closeReason() : target.closeReason()).c_str());
  return finished && !wrong ? 0 : 1;
}
