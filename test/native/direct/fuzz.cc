// Packets that no peer of ours would send: damaged, out of place, repeated, and half of them with a good code, as those
// of a peer of another make would be. Built with a sanitizer, so whatever is read or written wrongly ends it.
//
//   fuzz SEED PACKETS
//
// Prints one line of JSON.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../../../native/src/direct_connection.h"

using namespace memferry::direct;

namespace {

using Bytes = std::vector<uint8_t>;

std::mt19937_64 chance;

uint64_t below(uint64_t bound) { return bound == 0 ? 0 : chance() % bound; }

// Where a length, an offset or a number is most likely to be taken wrongly.
uint64_t extreme() {
  static const uint64_t values[] = {0, 1, 2, 63, 64, 65, 66, 127, 128, 255, 256, 1199, 1200, 65535, 65536, 0x7fffffff, 0x80000000, 0xffffffff,
                                    0x100000000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff};
  return values[below(std::size(values))];
}

void put(Bytes& out, uint64_t value, int count) {
  for (int shift = 8 * (count - 1); shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(value >> shift));
}

// Whether this packet may break the protocol. Most do not, for one that does is a connection's last.
bool wild = false;

uint64_t number(uint64_t bound) { return wild && below(3) == 0 ? extreme() : below(bound); }

void frame(Bytes& out, uint64_t packetsSent) {
  unsigned kind = static_cast<unsigned>(below(wild ? 8 : 5));
  if (kind == 2 && packetsSent == 0 && !wild) kind = 4;
  out.push_back(static_cast<uint8_t>(kind == 7 ? extreme() : kind));
  switch (kind) {
    case 1: {
      const bool last = below(wild ? 4 : 200) == 0;
      put(out, last ? 1 : 0, 1);
      put(out, number(below(2) == 0 ? 3 : kStreams), 2);
      put(out, last ? 1 << 16 : number(below(2) == 0 ? 40 : 1 << 15), 8);
      const uint64_t length = last ? 0 : number(64);
      put(out, length, 2);
      for (uint64_t i = 0; i < length % 128; i++) out.push_back(static_cast<uint8_t>(i));
      break;
    }
    case 2: {
      const uint64_t largest = number(packetsSent) + 1, length = wild ? number(100) : 1 + below(largest);
      const uint64_t left = largest + 1 - length;
      const uint64_t ranges = wild ? number(80) : left > 4 ? 2 : 1;
      put(out, largest, 8);
      put(out, number(100'000), 4);
      put(out, ranges, 1);
      put(out, length, 4);
      for (uint64_t i = 1; i < ranges % 80; i++) {
        put(out, wild ? number(100) : 1 + below(2), 4);
        put(out, wild ? number(100) : 1, 4);
      }
      break;
    }
    case 3:
      put(out, number(kStreams), 2);
      put(out, number(1 << 24), 8);
      break;
    case 5: {
      put(out, extreme(), 2);
      const uint64_t length = extreme();
      put(out, length, 1);
      for (uint64_t i = 0; i < length % 200; i++) out.push_back(static_cast<uint8_t>(below(256)));
      break;
    }
    default:
      break;
  }
}

Bytes made(uint64_t packetNumber, uint32_t id, uint64_t packetsSent) {
  wild = below(40) == 0;
  Bytes out{0xd7, 1, 0, 0};
  put(out, below(50) == 0 ? extreme() : id, 4);
  // Some overtake others.
  put(out, wild ? extreme() : packetNumber + below(4), 8);
  for (uint64_t i = below(6); i > 0; i--) frame(out, packetsSent);
  return out;
}

void damage(Bytes& bytes) {
  for (uint64_t i = below(4); i > 0 && !bytes.empty(); i--) bytes[below(bytes.size())] ^= static_cast<uint8_t>(1 << below(8));
  if (below(8) == 0) bytes.resize(below(bytes.size() + 1));
  if (below(8) == 0) bytes.resize(bytes.size() + below(40));
}

}  // namespace

int main(int count, char** values) {
  if (count < 3) return 2;
  const uint64_t seed = std::strtoull(values[1], nullptr, 10), packets = std::strtoull(values[2], nullptr, 10);
  chance.seed(seed);
  ConnectionOptions options;
  options.id = 7;
  options.rtt = 20'000;
  options.sendKey.fill(1);
  options.receiveKey.fill(2);
  uint64_t now = 1'000'000, taken = 0, refused = 0, lives = 0, closed = 0, read = 0;
  Bytes buffer(4096), last;
  for (uint64_t sent = 0; sent < packets;) {
    lives++;
    Connection connection(options, now);
    uint64_t packetNumber = 1;
    for (uint64_t i = 0; i < 400 && sent < packets && !connection.closed(); i++, sent++) {
      if (below(8) == 0) connection.write(static_cast<unsigned>(below(kStreams)), buffer.data(), below(buffer.size()));
      if (below(64) == 0) connection.end(static_cast<unsigned>(below(kStreams)));
      Bytes packet = below(16) == 0 && !last.empty() ? last : made(packetNumber++, options.id, connection.stats(now).packetsSent);
      const bool damaged = below(8) == 0;
      if (damaged) damage(packet);
      if (below(damaged ? 10 : 40) != 0) {
        // The length of all of it; now and then a wrong one.
        const size_t length = packet.size() + kMacBytes + (below(64) == 0 ? 1 : 0);
        if (packet.size() > 3) packet[2] = static_cast<uint8_t>(length >> 8), packet[3] = static_cast<uint8_t>(length);
        uint8_t mac[kMacBytes];
        authenticate(options.receiveKey.data(), packet.data(), packet.size(), mac);
        packet.insert(packet.end(), mac, mac + kMacBytes);
        last = packet;
      }
      // On the heap and of just its size, so that a read past it is seen.
      const Bytes exact(packet.begin(), packet.end());
      bool newest = false;
      if (connection.receive(exact.data(), exact.size(), now, newest)) taken++;
      else refused++;
      now += below(50'000);
      connection.tick(now);
      Batch batch;
      for (int k = 0; k < 8 && connection.transmit(now, batch); k++) {
        if (batch.packetBytes == 0 || batch.packetBytes > kMaxPacketBytes) return 3;
      }
      for (const unsigned stream : connection.takeReadable()) {
        if (stream >= kStreams) return 4;
        if (below(4) != 0) read += connection.read(stream, buffer.data(), buffer.size());
      }
      (void)connection.nextAt(now);
      (void)connection.settled();
    }
    if (connection.closed()) {
      closed++;
      if (connection.closeReason().size() > 256) return 5;
    }
  }
  std::printf("{\"taken\":%llu,\"refused\":%llu,\"connections\":%llu,\"closed\":%llu,\"read\":%llu}\n", static_cast<unsigned long long>(taken),
              static_cast<unsigned long long>(refused), static_cast<unsigned long long>(lives), static_cast<unsigned long long>(closed),
              static_cast<unsigned long long>(read));
  return 0;
}
