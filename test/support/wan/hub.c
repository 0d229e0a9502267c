/*
 * A wide area network in one process: every node is a TUN device in a network namespace, and this program is the star's centre.
 *
 * A packet is sent over its node's uplink, waits for that node's delay, is sent over the receiver's downlink, and waits
 * for the receiver's delay. Each link has a rate and a queue that drops at its tail. Losses fall on the uplink.
 *
 * Devices pass super-packets (virtio headers: one packet stands for up to 64 KiB of segments), so that a Gbit/s costs
 * little. All accounting is by segment, as if each had its own headers: a super-packet is taken apart only where a
 * segment is lost, held back or finds the queue full, and then into the longest runs that remain.
 *
 * Commands are lines on standard input; each is answered with one line, `ok`, `error WHY` or JSON:
 *
 *   node NAME NETNS MTU       joins; NETNS is a file such as /run/netns/x, where the device `wan` appears
 *   address NAME IP           this address is at the node from now on
 *   forget NAME IP
 *   set NAME KEY VALUE ...    delayMs, jitterMs, upMbit, downMbit (0: no limit), loss, reorder (0 to 1), holdMs, bufferBytes
 *   cut NAME, restore NAME    everything from and to it is dropped, also what is on its way
 *   mark NAME                 forgets when its first packet came
 *   stats NAME
 *
 * It ends when its standard input does.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define NODES_MAX 160
#define ADDRESSES_MAX 8
#define READS_PER_TURN 32
#define EVENTS_PER_TURN 512
#define PACKET_BYTES_MAX (65536 + 512)
#define QUEUED_BYTES_MAX ((uint64_t)1 << 30)
#define QUEUED_PACKETS_MAX (1 << 20)
/* A super-packet arrives when its last bit does, so on a slow link it may not stand for more than this. */
#define BURST_NS 1000000.0
#define BUFFER_NS_MIN 10e6
#define BUFFER_BYTES_MIN (128 * 1024.0)
#define LINE_BYTES 1024

typedef struct virtio_net_hdr vnet;

/* An IPv4 address is kept as ::ffff:a.b.c.d. */
typedef struct {
  uint8_t bytes[16];
} address;

typedef struct {
  double freeAt, lastOut;
} line;

typedef struct {
  char name[64];
  int fd;
  bool cut;
  address addresses[ADDRESSES_MAX];
  int addressCount;
  double delayMs, jitterMs, upMbit, downMbit, loss, reorder, holdMs, bufferBytes;
  line up, down;
  double firstAt;
  uint64_t sentSegments, sentBytes, gotSegments, gotBytes, lost, upFull, downFull, held, noRoute, whileCut, overflow, refused;
} node;

/* What a packet is made of; one that is no super-packet has one segment. */
typedef struct {
  uint32_t headers, transport, payload, segmentBytes, segments;
  bool v6, tcp;
} shape;

typedef struct {
  double at;
  uint64_t order;
  uint32_t length;
  uint16_t from, to;
  bool arriving;
  uint8_t bytes[];
} packet;

static node nodes[NODES_MAX];
static int nodeCount;
static packet **heap;
static uint32_t heapCount;
static uint64_t queuedBytes, orders;
static uint64_t randomState = 0x9e3779b97f4a7c15u;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static double chance(void) {
  randomState ^= randomState << 13;
  randomState ^= randomState >> 7;
  randomState ^= randomState << 17;
  return (randomState >> 11) * 0x1p-53;
}

/* --- the queue of what is on its way, by time and then by order of entry --- */

static bool before(const packet *a, const packet *b) {
  return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void push(packet *p) {
  p->order = orders++;
  uint32_t i = heapCount++;
  while (i > 0 && before(p, heap[(i - 1) / 2])) {
    heap[i] = heap[(i - 1) / 2];
    i = (i - 1) / 2;
  }
  heap[i] = p;
  queuedBytes += p->length;
}

static packet *pop(void) {
  packet *first = heap[0], *last = heap[--heapCount];
  uint32_t i = 0;
  for (;;) {
    uint32_t child = 2 * i + 1;
    if (child >= heapCount) break;
    if (child + 1 < heapCount && before(heap[child + 1], heap[child])) child++;
    if (!before(heap[child], last)) break;
    heap[i] = heap[child];
    i = child;
  }
  if (heapCount > 0) heap[i] = last;
  queuedBytes -= first->length;
  return first;
}

/* --- headers --- */

static uint16_t get16(const uint8_t *p) { return p[0] << 8 | p[1]; }
static void put16(uint8_t *p, uint32_t value) {
  p[0] = value >> 8;
  p[1] = value;
}

static uint32_t sum16(const uint8_t *p, uint32_t length, uint32_t sum) {
  for (uint32_t i = 0; i + 1 < length; i += 2) sum += get16(p + i);
  return sum;
}

static uint16_t fold(uint32_t sum) {
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

static address mapped(const uint8_t *v4) {
  address a = {{0}};
  a.bytes[10] = a.bytes[11] = 0xff;
  memcpy(a.bytes + 12, v4, 4);
  return a;
}

static bool parse_address(const char *text, address *to) {
  uint8_t v4[4];
  if (inet_pton(AF_INET, text, v4) == 1) {
    *to = mapped(v4);
    return true;
  }
  return inet_pton(AF_INET6, text, to->bytes) == 1;
}

static int node_at(const address *a) {
  for (int i = 0; i < nodeCount; i++)
    for (int j = 0; j < nodes[i].addressCount; j++)
      if (memcmp(&nodes[i].addresses[j], a, sizeof *a) == 0) return i;
  return -1;
}

/* Returns the receiving node, or -1. */
static int destination(const uint8_t *ip, uint32_t length) {
  address to;
  if (length >= 20 && ip[0] >> 4 == 4) {
    to = mapped(ip + 16);
  } else if (length >= 40 && ip[0] >> 4 == 6) {
    memcpy(to.bytes, ip + 24, 16);
  } else {
    return -1;
  }
  return node_at(&to);
}

static shape shape_of(const uint8_t *bytes, uint32_t length) {
  const vnet *head = (const vnet *)bytes;
  const uint8_t *ip = bytes + sizeof(vnet);
  const uint32_t size = length - sizeof(vnet);
  shape s = {.headers = size, .segments = 1, .v6 = ip[0] >> 4 == 6};
  const int type = head->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;
  s.tcp = type == VIRTIO_NET_HDR_GSO_TCPV4 || type == VIRTIO_NET_HDR_GSO_TCPV6;
  if ((!s.tcp && type != VIRTIO_NET_HDR_GSO_UDP_L4) || head->gso_size == 0) return s;
  s.transport = head->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM ? head->csum_start : s.v6 ? 40 : (ip[0] & 15) * 4;
  if (s.transport + (s.tcp ? 20u : 8u) > size) return s;
  const uint32_t headers = s.transport + (s.tcp ? (ip[s.transport + 12] >> 4) * 4u : 8u);
  if (headers >= size) return s;
  s.headers = headers;
  s.payload = size - headers;
  s.segmentBytes = head->gso_size;
  s.segments = (s.payload + s.segmentBytes - 1) / s.segmentBytes;
  return s;
}

static uint32_t payload_of(const shape *s, uint32_t first, uint32_t count) {
  const uint32_t from = first * s->segmentBytes, all = count * s->segmentBytes;
  return s->payload - from < all ? s->payload - from : all;
}

/* The checksum of a pseudo header, as a sender leaves it to whoever computes the rest. */
static uint16_t pseudo(const uint8_t *ip, const shape *s, uint32_t transportBytes) {
  uint32_t sum = s->v6 ? sum16(ip + 8, 32, 0) : sum16(ip + 12, 8, 0);
  sum += (s->tcp ? 6 : 17) + (transportBytes & 0xffff) + (transportBytes >> 16);
  return fold(sum);
}

/* A packet of the segments [first, first + count) of another. */
static packet *part(const uint8_t *bytes, uint32_t length, const shape *s, uint32_t first, uint32_t count) {
  if (count == s->segments) {
    packet *whole = malloc(sizeof(packet) + length);
    whole->length = length;
    memcpy(whole->bytes, bytes, length);
    return whole;
  }
  const uint32_t payload = payload_of(s, first, count), head = sizeof(vnet) + s->headers;
  packet *p = malloc(sizeof(packet) + head + payload);
  p->length = head + payload;
  memcpy(p->bytes, bytes, head);
  memcpy(p->bytes + head, bytes + head + first * s->segmentBytes, payload);
  vnet *h = (vnet *)p->bytes;
  uint8_t *ip = p->bytes + sizeof(vnet), *transport = ip + s->transport;
  const uint32_t transportBytes = s->headers - s->transport + payload;
  h->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
  h->csum_start = s->transport;
  h->csum_offset = s->tcp ? 16 : 6;
  h->hdr_len = s->headers;
  if (first > 0) h->gso_type &= ~VIRTIO_NET_HDR_GSO_ECN;
  if (count == 1) h->gso_type = VIRTIO_NET_HDR_GSO_NONE, h->gso_size = 0;
  if (s->v6) {
    put16(ip + 4, s->headers - 40 + payload);
  } else {
    put16(ip + 2, s->headers + payload);
    put16(ip + 4, get16(ip + 4) + first);
    put16(ip + 10, 0);
    put16(ip + 10, (uint16_t)~fold(sum16(ip, (ip[0] & 15) * 4, 0)));
  }
  if (s->tcp) {
    const uint32_t sequence = ntohl(*(uint32_t *)(transport + 4)) + first * s->segmentBytes;
    *(uint32_t *)(transport + 4) = htonl(sequence);
    if (first > 0) transport[13] &= ~0x80;                         /* CWR belongs to the first */
    if (first + count < s->segments) transport[13] &= ~(0x01 | 0x08); /* FIN and PSH to the last */
  } else {
    put16(transport + 4, transportBytes);
  }
  put16(transport + h->csum_offset, pseudo(ip, s, transportBytes));
  return p;
}

/* --- links --- */

static double buffer_of(const node *n, double mbit) {
  if (n->bufferBytes > 0) return n->bufferBytes;
  const double bytesPerNs = mbit / 8e3;
  double bytes = bytesPerNs * 4e6 * n->delayMs;
  if (bytes < bytesPerNs * BUFFER_NS_MIN) bytes = bytesPerNs * BUFFER_NS_MIN;
  return bytes < BUFFER_BYTES_MIN ? BUFFER_BYTES_MIN : bytes;
}

static void leave(packet *p, node *n, line *l, double at, int from, int to, bool arriving, bool hold) {
  p->from = from;
  p->to = to;
  p->arriving = arriving;
  p->at = at + n->delayMs * 1e6 + (n->jitterMs > 0 ? n->jitterMs * 1e6 * chance() : 0);
  if (hold) {
    p->at += (n->holdMs > 0 ? n->holdMs : n->delayMs / 4 + 1) * 1e6;
    n->held++;
  } else if (p->at < l->lastOut) {
    p->at = l->lastOut; /* jitter alone does not change the order */
  } else {
    l->lastOut = p->at;
  }
  push(p);
}

/*
 * Sends a packet over the uplink of `from`, or the downlink of `to` if it is `arriving`, from the time `at`.
 * `owned` is the packet if the caller has it as one; it is used again or freed here.
 */
static void cross(const uint8_t *bytes, uint32_t length, packet *owned, int from, int to, bool arriving, double at) {
  node *n = &nodes[arriving ? to : from];
  line *l = arriving ? &n->down : &n->up;
  const double mbit = arriving ? n->downMbit : n->upMbit, room = mbit > 0 ? buffer_of(n, mbit) : 0;
  const shape s = shape_of(bytes, length);
  uint32_t first = 0;
  if (queuedBytes + length > QUEUED_BYTES_MAX || heapCount + s.segments > QUEUED_PACKETS_MAX) {
    n->overflow += s.segments;
    free(owned);
    return;
  }
  if (l->freeAt < at) l->freeAt = at;
  double startedAt = l->freeAt;
  for (uint32_t i = 0; i < s.segments; i++) {
    const uint32_t wire = s.headers + payload_of(&s, i, 1);
    const bool full = mbit > 0 && (l->freeAt - at) * mbit / 8e3 > room;
    const double runEndsAt = l->freeAt;
    if (!full && mbit > 0) l->freeAt += wire * 8e3 / mbit;
    const bool lost = !full && !arriving && n->loss > 0 && chance() < n->loss;
    const bool hold = !full && !lost && !arriving && n->reorder > 0 && chance() < n->reorder;
    if (full) (*(arriving ? &n->downFull : &n->upFull))++;
    if (lost) n->lost++;
    if (!full && !lost && !hold) {
      const bool last = i + 1 == s.segments;
      if (!last && l->freeAt - startedAt < BURST_NS) continue;
      if (owned != NULL && first == 0 && last) {
        leave(owned, n, l, l->freeAt, from, to, arriving, false);
        return;
      }
      leave(part(bytes, length, &s, first, i + 1 - first), n, l, l->freeAt, from, to, arriving, false);
    } else {
      if (i > first) leave(part(bytes, length, &s, first, i - first), n, l, runEndsAt, from, to, arriving, false);
      if (hold) leave(part(bytes, length, &s, i, 1), n, l, l->freeAt, from, to, arriving, true);
    }
    first = i + 1;
    startedAt = l->freeAt;
  }
  free(owned);
}

static void take(int from, const uint8_t *bytes, uint32_t length, double at) {
  node *n = &nodes[from];
  const shape s = shape_of(bytes, length);
  const int to = destination(bytes + sizeof(vnet), length - sizeof(vnet));
  if (to < 0) {
    n->noRoute++;
    return;
  }
  if (n->firstAt == 0) n->firstAt = at;
  if (n->cut || nodes[to].cut) {
    n->whileCut += s.segments;
    return;
  }
  n->sentSegments += s.segments;
  n->sentBytes += s.segments * s.headers + s.payload;
  cross(bytes, length, NULL, from, to, false, at);
}

static void arrive(packet *p) {
  node *to = &nodes[p->to];
  if (to->cut || nodes[p->from].cut) {
    to->whileCut++;
    free(p);
    return;
  }
  if (!p->arriving) {
    cross(p->bytes, p->length, p, p->from, p->to, true, p->at);
    return;
  }
  const shape s = shape_of(p->bytes, p->length);
  if (write(to->fd, p->bytes, p->length) < 0) {
    to->refused += s.segments;
  } else {
    to->gotSegments += s.segments;
    to->gotBytes += s.segments * s.headers + s.payload;
  }
  free(p);
}

/* --- commands --- */

static void answer(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vprintf(format, args);
  va_end(args);
  putchar('\n');
  fflush(stdout);
}

/* Opens the device `wan` in the namespace. Returns NULL, or what went wrong. */
static const char *open_device(node *n, const char *netns, int mtu) {
  static char problem[256];
  const char *step = "own namespace";
  const int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), other = open(netns, O_RDONLY | O_CLOEXEC);
  struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
  strcpy(request.ifr_name, "wan");
  int control = -1;
  bool ok = own >= 0 && (step = netns, other >= 0 && setns(other, CLONE_NEWNET) == 0);
  ok = ok && (step = "/dev/net/tun", (n->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)) >= 0);
  ok = ok && (step = "TUNSETIFF", ioctl(n->fd, TUNSETIFF, &request) == 0);
  const unsigned tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN, udp = TUN_F_USO4 | TUN_F_USO6;
  ok = ok && (step = "TUNSETOFFLOAD", ioctl(n->fd, TUNSETOFFLOAD, tcp | udp) == 0 || ioctl(n->fd, TUNSETOFFLOAD, tcp) == 0);
  ok = ok && (step = "socket", (control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) >= 0);
  request.ifr_mtu = mtu;
  ok = ok && (step = "MTU", ioctl(control, SIOCSIFMTU, &request) == 0);
  request.ifr_qlen = 4096;
  ok = ok && (step = "queue length", ioctl(control, SIOCSIFTXQLEN, &request) == 0);
  if (!ok) {
    snprintf(problem, sizeof problem, "%s: %s", step, strerror(errno));
    if (n->fd >= 0) close(n->fd);
  }
  if (control >= 0) close(control);
  if (own >= 0 && setns(own, CLONE_NEWNET) != 0) abort();
  if (own >= 0) close(own);
  if (other >= 0) close(other);
  return ok ? NULL : problem;
}

static node *find(const char *name) {
  for (int i = 0; i < nodeCount; i++)
    if (strcmp(nodes[i].name, name) == 0) return &nodes[i];
  return NULL;
}

static double *field(node *n, const char *key) {
  const struct {
    const char *key;
    double *at;
  } fields[] = {{"delayMs", &n->delayMs}, {"jitterMs", &n->jitterMs}, {"upMbit", &n->upMbit}, {"downMbit", &n->downMbit},
                {"loss", &n->loss},       {"reorder", &n->reorder},   {"holdMs", &n->holdMs}, {"bufferBytes", &n->bufferBytes}};
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
    if (strcmp(fields[i].key, key) == 0) return fields[i].at;
  return NULL;
}

static void join(const char *name, const char *netns, const char *mtu) {
  if (name == NULL || netns == NULL || mtu == NULL) return answer("error usage: node NAME NETNS MTU");
  if (nodeCount == NODES_MAX) return answer("error more than %d nodes", NODES_MAX);
  if (strlen(name) >= sizeof nodes->name || find(name) != NULL) return answer("error the name %s is taken or too long", name);
  node *n = &nodes[nodeCount];
  memset(n, 0, sizeof *n);
  n->fd = -1;
  strcpy(n->name, name);
  const char *problem = open_device(n, netns, atoi(mtu));
  if (problem != NULL) return answer("error %s", problem);
  nodeCount++;
  answer("ok");
}

static void change_address(node *n, const char *text, bool add) {
  address a;
  if (text == NULL || !parse_address(text, &a)) return answer("error %s is no address", text == NULL ? "nothing" : text);
  const int at = node_at(&a);
  if (add) {
    if (at >= 0) return answer("error %s is at %s", text, nodes[at].name);
    if (n->addressCount == ADDRESSES_MAX) return answer("error more than %d addresses", ADDRESSES_MAX);
    n->addresses[n->addressCount++] = a;
    return answer("ok");
  }
  for (int i = 0; i < n->addressCount; i++) {
    if (memcmp(&n->addresses[i], &a, sizeof a) != 0) continue;
    n->addresses[i] = n->addresses[--n->addressCount];
    return answer("ok");
  }
  answer("error %s is not at %s", text, n->name);
}

static void set(node *n) {
  for (char *key = strtok(NULL, " "); key != NULL; key = strtok(NULL, " ")) {
    const char *value = strtok(NULL, " ");
    double *at = field(n, key);
    char *end = NULL;
    const double number = value == NULL ? -1 : strtod(value, &end);
    if (at == NULL || value == NULL || *end != '\0' || !(number >= 0)) return answer("error %s %s", key, value == NULL ? "" : value);
    *at = number;
  }
  answer("ok");
}

static void stats(const node *n) {
  answer("{\"firstAtNs\":%.0f,\"sentSegments\":%lu,\"sentBytes\":%lu,\"gotSegments\":%lu,\"gotBytes\":%lu,\"lost\":%lu,"
         "\"upFull\":%lu,\"downFull\":%lu,\"held\":%lu,\"noRoute\":%lu,\"whileCut\":%lu,\"overflow\":%lu,\"refused\":%lu}",
         n->firstAt, n->sentSegments, n->sentBytes, n->gotSegments, n->gotBytes, n->lost, n->upFull, n->downFull, n->held,
         n->noRoute, n->whileCut, n->overflow, n->refused);
}

static void command(char *text) {
  const char *verb = strtok(text, " "), *name = strtok(NULL, " ");
  if (verb == NULL) return answer("error an empty line");
  if (strcmp(verb, "node") == 0) {
    const char *netns = strtok(NULL, " ");
    return join(name, netns, strtok(NULL, " "));
  }
  node *n = name == NULL ? NULL : find(name);
  if (n == NULL) return answer("error no node %s", name == NULL ? "named" : name);
  if (strcmp(verb, "address") == 0 || strcmp(verb, "forget") == 0) {
    return change_address(n, strtok(NULL, " "), verb[0] == 'a');
  }
  if (strcmp(verb, "set") == 0) return set(n);
  if (strcmp(verb, "stats") == 0) return stats(n);
  if (strcmp(verb, "cut") == 0) {
    n->cut = true;
  } else if (strcmp(verb, "restore") == 0) {
    n->cut = false;
  } else if (strcmp(verb, "mark") == 0) {
    n->firstAt = 0;
  } else {
    return answer("error no command %s", verb);
  }
  answer("ok");
}

/* Returns false at the end of the input. */
static bool read_commands(void) {
  static char text[LINE_BYTES];
  static size_t length;
  const ssize_t got = read(0, text + length, sizeof text - 1 - length);
  if (got <= 0) return got < 0 && (errno == EINTR || errno == EAGAIN);
  length += got;
  text[length] = '\0';
  for (char *end; (end = strchr(text, '\n')) != NULL;) {
    *end = '\0';
    command(text);
    length -= end + 1 - text;
    memmove(text, end + 1, length + 1);
  }
  if (length == sizeof text - 1) length = 0;
  return true;
}

int main(void) {
  static uint8_t bytes[PACKET_BYTES_MAX];
  heap = malloc(sizeof *heap * (QUEUED_PACKETS_MAX + 1));
  if (heap == NULL) return 1;
  randomState ^= (uint64_t)now();
  prctl(PR_SET_TIMERSLACK, 1000);
  static struct pollfd watched[NODES_MAX + 1];
  int watchedCount = 0;
  setpriority(PRIO_PROCESS, 0, -15); /* late packets would be measured as delay; without the right to it, so be it */
  for (;;) {
    bool more = false;
    for (int i = 0; i < nodeCount; i++) {
      if (i < watchedCount && watched[i].revents == 0) continue;
      const double at = now();
      int reads = 0;
      for (; reads < READS_PER_TURN; reads++) {
        const ssize_t got = read(nodes[i].fd, bytes, sizeof bytes);
        if (got <= (ssize_t)sizeof(vnet)) break;
        take(i, bytes, got, at);
      }
      more |= reads == READS_PER_TURN;
    }
    const double at = now();
    int events = 0;
    while (heapCount > 0 && heap[0]->at <= at && events++ < EVENTS_PER_TURN) arrive(pop());
    for (int i = 0; i < nodeCount; i++) watched[i] = (struct pollfd){.fd = nodes[i].fd, .events = POLLIN};
    watched[nodeCount] = (struct pollfd){.fd = 0, .events = POLLIN};
    double waitNs = more ? 0 : heapCount > 0 ? heap[0]->at - now() : 1e9;
    if (waitNs < 0) waitNs = 0;
    const struct timespec timeout = {.tv_sec = (time_t)(waitNs / 1e9), .tv_nsec = (long)waitNs % 1000000000};
    watchedCount = nodeCount;
    if (ppoll(watched, watchedCount + 1, &timeout, NULL) < 0 && errno != EINTR) return 1;
    if (watched[watchedCount].revents != 0 && !read_commands()) return 0;
  }
}
