/*
 * Bare senders and receivers, to see what a network does and what it could do.
 *
 *   flow receive PORT               takes one TCP connection to its end
 *   flow send HOST PORT BYTES [CC]  sends that much, with this congestion control if one is named
 *   flow catch PORT                 counts datagrams until a second passes without one
 *   flow burst HOST PORT COUNT SIZE sends so many super-packets of datagrams of this size (UDP_SEGMENT)
 *
 * Receivers print `ready` first. At last each prints one JSON object; digests agree if all arrived as it was.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#define BLOCK 65536
#define SUPER_BYTES 60000
#define DATAGRAM_BYTES_MAX 65536

static uint64_t words[BLOCK / 8];

static void die(const char *what) {
  fprintf(stderr, "flow: %s: %s\n", what, strerror(errno));
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void fill(uint64_t number) {
  uint64_t state = number * 0x9e3779b97f4a7c15u + 1;
  for (size_t i = 0; i < BLOCK / 8; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    words[i] = state;
  }
}

static uint64_t digest(uint64_t sum, size_t length) {
  for (size_t i = 0; i < length / 8; i++) sum = (sum << 7 | sum >> 57) ^ words[i];
  return sum;
}

static int connected(const char *host, const char *port, int type, const char *control) {
  struct addrinfo hints = {.ai_socktype = type, .ai_flags = AI_NUMERICHOST}, *found;
  if (getaddrinfo(host, port, &hints, &found) != 0) die(host);
  const int fd = socket(found->ai_family, type, 0);
  if (control != NULL && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, control, strlen(control)) != 0) die(control);
  if (connect(fd, found->ai_addr, found->ai_addrlen) != 0) die("connect");
  freeaddrinfo(found);
  return fd;
}

static int bound(const char *port, int type) {
  const struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
  const int fd = socket(AF_INET6, type, 0), yes = 1, large = 64 << 20;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (type == SOCK_DGRAM) setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &large, sizeof large);
  if (bind(fd, (const void *)&any, sizeof any) != 0) die("bind");
  if (type == SOCK_STREAM && listen(fd, 1) != 0) die("listen");
  puts("ready");
  fflush(stdout);
  return fd;
}

static void receive_stream(const char *port) {
  const int fd = accept(bound(port, SOCK_STREAM), NULL, NULL);
  if (fd < 0) die("accept");
  const double from = now();
  uint64_t bytes = 0, sum = 0;
  for (ssize_t got; (got = recv(fd, words, BLOCK, MSG_WAITALL)) != 0; bytes += got) {
    if (got < 0) die("receive");
    sum = digest(sum, got);
  }
  printf("{\"bytes\":%lu,\"seconds\":%.6f,\"digest\":\"%016lx\",\"cpuSeconds\":%.3f}\n", bytes, now() - from, sum, cpu());
}

static void send_stream(const char *host, const char *port, uint64_t bytes, const char *control) {
  const double from = now();
  const int fd = connected(host, port, SOCK_STREAM, control);
  uint64_t sum = 0;
  for (uint64_t at = 0; at < bytes; at += BLOCK) {
    const size_t length = bytes - at < BLOCK ? bytes - at : BLOCK;
    fill(at);
    sum = digest(sum, length);
    for (size_t sent = 0; sent < length;) {
      const ssize_t n = send(fd, (char *)words + sent, length - sent, MSG_NOSIGNAL);
      if (n < 0) die("send");
      sent += n;
    }
  }
  shutdown(fd, SHUT_WR);
  char end;
  if (read(fd, &end, 1) != 0) die("the receiver's end");
  printf("{\"bytes\":%lu,\"seconds\":%.6f,\"digest\":\"%016lx\",\"cpuSeconds\":%.3f}\n", bytes, now() - from, sum, cpu());
}

/* A datagram is its number, and then that number mixed with each word's place. */
static uint64_t word_of(uint64_t number, size_t i) { return i == 0 ? number : (number + 1) * 0x9e3779b97f4a7c15u ^ i; }

static void burst(const char *host, const char *port, uint64_t count, size_t size) {
  const int fd = connected(host, port, SOCK_DGRAM, NULL), segment = size;
  if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment) != 0) die("UDP_SEGMENT");
  const size_t each = SUPER_BYTES / size;
  uint64_t number = 0;
  for (uint64_t i = 0; i < count; i++) {
    for (size_t j = 0; j < each; j++, number++)
      for (size_t k = 0; k < size / 8; k++) words[j * size / 8 + k] = word_of(number, k);
    if (send(fd, words, each * size, 0) < 0) die("send");
    usleep(2000);
  }
  printf("{\"datagrams\":%lu}\n", number);
}

static void catch (const char *port) {
  const int fd = bound(port, SOCK_DGRAM);
  uint64_t datagrams = 0, damaged = 0, overtaken = 0, next = 0;
  struct pollfd watched = {.fd = fd, .events = POLLIN};
  for (int wait = 20000; poll(&watched, 1, wait) > 0; wait = 1000) {
    const ssize_t got = recv(fd, words, DATAGRAM_BYTES_MAX, 0);
    if (got < 8) die("receive");
    const uint64_t number = words[0];
    for (ssize_t k = 0; k < got / 8; k++)
      if (words[k] != word_of(number, k)) {
        damaged++;
        break;
      }
    datagrams++;
    if (number < next) overtaken++;
    else next = number + 1;
  }
  printf("{\"datagrams\":%lu,\"damaged\":%lu,\"overtaken\":%lu}\n", datagrams, damaged, overtaken);
}

int main(int count, char **args) {
  const char *verb = count > 1 ? args[1] : "";
  if (strcmp(verb, "receive") == 0 && count == 3) receive_stream(args[2]);
  else if (strcmp(verb, "send") == 0 && count >= 5) send_stream(args[2], args[3], strtoull(args[4], NULL, 10), args[5]);
  else if (strcmp(verb, "catch") == 0 && count == 3) catch (args[2]);
  else if (strcmp(verb, "burst") == 0 && count == 6) burst(args[2], args[3], strtoull(args[4], NULL, 10), atoi(args[5]));
  else return fprintf(stderr, "usage: see the head of flow.c\n"), 2;
  return 0;
}
