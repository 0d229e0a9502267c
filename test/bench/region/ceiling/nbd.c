/*
 * The least that an NBD server can do: every READ is answered with the same bytes from a buffer that stays in the
 * processor's cache, and all that came in one piece leaves in one piece. It keeps nothing: WRITEs are read past.
 * What a client gets from it is what the client and the socket cost.
 *
 *     nbd SOCKET MIB      ends when its standard input does
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { kInBytes = 64 << 10, kMaxRead = 32 << 20, kBatch = 256, kRequestBytes = 28, kReplyBytes = 16 };
enum { kExportName = 1, kAbort = 2, kInfo = 6, kGo = 7 };
enum { kRead = 0, kWrite = 1, kDisconnect = 2 };

static uint64_t exportBytes;
static uint8_t* data;

static int takeAll(int fd, void* into, size_t length) {
  return recv(fd, into, length, MSG_WAITALL) == (ssize_t)length;
}

static int skip(int fd, size_t length) {
  static __thread uint8_t rest[kInBytes];
  while (length > 0) {
    const size_t step = length < sizeof rest ? length : sizeof rest;
    if (!takeAll(fd, rest, step)) return 0;
    length -= step;
  }
  return 1;
}

static int giveAll(int fd, const void* from, size_t length) {
  while (length > 0) {
    const ssize_t put = send(fd, from, length, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return 0;
    from = (const uint8_t*)from + put;
    length -= (size_t)put;
  }
  return 1;
}

static uint8_t* put(uint8_t* at, uint64_t value, int bytes) {
  for (int i = bytes - 1; i >= 0; i--) *at++ = (uint8_t)(value >> (8 * i));
  return at;
}

static int optionReply(int fd, uint32_t option, uint32_t kind, const void* body, uint32_t length) {
  uint8_t head[20];
  put(put(put(put(head, 0x3e889045565a9ull, 8), option, 4), kind, 4), length, 4);
  return giveAll(fd, head, sizeof head) && giveAll(fd, body, length);
}

static int negotiate(int fd) {
  uint8_t hello[18], flags[4], head[16], info[12];
  put(put(put(hello, 0x4e42444d41474943ull, 8), 0x49484156454f5054ull, 8), 3, 2);
  if (!giveAll(fd, hello, sizeof hello) || !takeAll(fd, flags, sizeof flags)) return 0;
  while (takeAll(fd, head, sizeof head)) {
    uint32_t option, length;
    memcpy(&option, head + 8, 4);
    memcpy(&length, head + 12, 4);
    option = be32toh(option);
    if (!skip(fd, be32toh(length))) return 0;
    /* HAS_FLAGS, SEND_FLUSH, CAN_MULTI_CONN */
    put(put(put(info, 0, 2), exportBytes, 8), 1 | 4 | 256, 2);
    if (option == kGo || option == kInfo) {
      if (!optionReply(fd, option, 3, info, sizeof info) || !optionReply(fd, option, 1, NULL, 0)) return 0;
      if (option == kGo) return 1;
    } else if (option == kExportName || option == kAbort) {
      return 0;
    } else if (!optionReply(fd, option, 0x80000001u, NULL, 0)) {
      return 0;
    }
  }
  return 0;
}

/* Sends what was gathered, whole. */
static int flush(int fd, struct iovec* parts, int count) {
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
  while (message.msg_iovlen > 0) {
    ssize_t put = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return 0;
    while (message.msg_iovlen > 0 && (size_t)put >= message.msg_iov->iov_len) {
      put -= (ssize_t)message.msg_iov->iov_len;
      message.msg_iov++;
      message.msg_iovlen--;
    }
    if (message.msg_iovlen > 0) {
      message.msg_iov->iov_base = (uint8_t*)message.msg_iov->iov_base + put;
      message.msg_iov->iov_len -= (size_t)put;
    }
  }
  return 1;
}

static void transmit(int fd) {
  uint8_t* const in = malloc(kInBytes);
  uint8_t (*const heads)[kReplyBytes] = malloc(kBatch * kReplyBytes);
  struct iovec* const parts = malloc(2 * kBatch * sizeof *parts);
  size_t have = 0;
  for (int ok = 1; ok;) {
    const ssize_t got = recv(fd, in + have, kInBytes - have, 0);
    if (got <= 0) break;
    have += (size_t)got;
    size_t at = 0;
    int replies = 0, used = 0;
    for (; ok && have - at >= kRequestBytes; at += kRequestBytes) {
      uint16_t command;
      uint32_t length;
      memcpy(&command, in + at + 6, 2);
      memcpy(&length, in + at + 24, 4);
      command = be16toh(command);
      length = be32toh(length);
      if (command == kDisconnect || length > kMaxRead) goto done;
      put(put(heads[replies], 0x67446698, 4), 0, 4);
      memcpy(heads[replies] + 8, in + at + 8, 8);
      parts[used++] = (struct iovec){heads[replies++], kReplyBytes};
      if (command == kRead) parts[used++] = (struct iovec){data, length};
      if (command == kWrite) {
        size_t here = have - at - kRequestBytes;
        if (here > length) here = length;
        ok = skip(fd, length - here);
        at += here;
      }
      if (replies == kBatch) ok = ok && flush(fd, parts, used), replies = used = 0;
    }
    if (used > 0) ok = ok && flush(fd, parts, used);
    memmove(in, in + at, have - at);
    have -= at;
  }
done:
  free(in);
  free(heads);
  free(parts);
}

static void* serve(void* given) {
  const int fd = (int)(intptr_t)given;
  if (negotiate(fd)) transmit(fd);
  close(fd);
  return NULL;
}

static void* listenFor(void* given) {
  const int listener = (int)(intptr_t)given;
  for (;;) {
    const int fd = accept(listener, NULL, NULL);
    if (fd < 0) return NULL;
    pthread_t thread;
    pthread_create(&thread, NULL, serve, (void*)(intptr_t)fd);
    pthread_detach(thread);
  }
}

int main(int count, char** arguments) {
  if (count != 3) return fprintf(stderr, "nbd SOCKET MIB\n"), 2;
  exportBytes = strtoull(arguments[2], NULL, 10) << 20;
  data = aligned_alloc(4096, kMaxRead);
  memset(data, 'x', kMaxRead);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, arguments[1], sizeof address.sun_path - 1);
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  if (listener < 0 || bind(listener, (struct sockaddr*)&address, sizeof address) != 0 || listen(listener, 16) != 0) {
    return perror("bind"), 1;
  }
  pthread_t thread;
  pthread_create(&thread, NULL, listenFor, (void*)(intptr_t)listener);
  puts("ready");
  fflush(stdout);
  char rest[64];
  while (read(0, rest, sizeof rest) > 0) {
  }
  unlink(arguments[1]);
  return 0;
}
