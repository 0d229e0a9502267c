/*
 * The least that a FUSE server can do: every READ is answered with the same bytes from a buffer that stays in the
 * processor's cache. What a file costs through it is the kernel's part; no server is faster.
 *
 *     fuse DIRECTORY MIB      the file is DIRECTORY/region; ends when its standard input does
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

enum { kIoBytes = 1 << 20, kThreads = 2 };

static uint64_t fileBytes;
static uint8_t data[kIoBytes] __attribute__((aligned(4096)));

static void reply(int fd, uint64_t unique, int error, const void* body, size_t length) {
  struct fuse_out_header head = {.len = sizeof head + length, .error = -error, .unique = unique};
  struct iovec parts[2] = {{&head, sizeof head}, {(void*)body, length}};
  if (writev(fd, parts, length ? 2 : 1) < 0 && errno != ENOENT && errno != ENODEV) perror("writev");
}

static struct fuse_attr attributes(uint64_t node) {
  struct fuse_attr out = {.ino = node, .mode = 0100600, .nlink = 1, .size = fileBytes, .blksize = 4096};
  if (node == FUSE_ROOT_ID) out.mode = 0040700, out.size = 0;
  return out;
}

static void answer(int fd, const struct fuse_in_header* in) {
  const void* body = in + 1;
  switch (in->opcode) {
    case FUSE_INIT: {
      const struct fuse_init_in* asked = body;
      struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION};
      out.flags = asked->flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES);
      out.max_readahead = out.max_write = kIoBytes;
      out.max_background = out.congestion_threshold = 64;
      out.max_pages = kIoBytes / 4096;
      out.time_gran = 1;
      return reply(fd, in->unique, 0, &out, sizeof out);
    }
    case FUSE_LOOKUP: {
      if (strcmp(body, "region") != 0) return reply(fd, in->unique, ENOENT, NULL, 0);
      struct fuse_entry_out out = {.nodeid = 2, .entry_valid = 60, .attr_valid = 60, .attr = attributes(2)};
      return reply(fd, in->unique, 0, &out, sizeof out);
    }
    case FUSE_GETATTR: {
      struct fuse_attr_out out = {.attr_valid = 60, .attr = attributes(in->nodeid)};
      return reply(fd, in->unique, 0, &out, sizeof out);
    }
    case FUSE_OPEN: {
      struct fuse_open_out out = {.open_flags = FOPEN_KEEP_CACHE};
      return reply(fd, in->unique, 0, &out, sizeof out);
    }
    case FUSE_READ: {
      const struct fuse_read_in* asked = body;
      return reply(fd, in->unique, 0, data, asked->size);
    }
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
      return;
    case FUSE_FLUSH:
    case FUSE_RELEASE:
      return reply(fd, in->unique, 0, NULL, 0);
    default:
      return reply(fd, in->unique, ENOSYS, NULL, 0);
  }
}

static void* serve(void* given) {
  const int fd = (int)(intptr_t)given;
  uint8_t* const request = aligned_alloc(4096, kIoBytes + 8192);
  for (;;) {
    const ssize_t got = read(fd, request, kIoBytes + 8192);
    if (got >= (ssize_t)sizeof(struct fuse_in_header)) {
      answer(fd, (const struct fuse_in_header*)request);
    } else if (got < 0 && errno != EINTR && errno != EAGAIN && errno != ENOENT) {
      return NULL;
    }
  }
}

int main(int count, char** arguments) {
  if (count != 3) return fprintf(stderr, "fuse DIRECTORY MIB\n"), 2;
  fileBytes = strtoull(arguments[2], NULL, 10) << 20;
  memset(data, 'x', sizeof data);
  const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  char options[100];
  snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, geteuid(), getegid());
  if (fd < 0 || mount("ceiling", arguments[1], "fuse", MS_NOSUID | MS_NODEV, options) != 0) {
    return perror("mount"), 1;
  }
  for (int i = 0; i < kThreads; i++) {
    uint32_t source = (uint32_t)fd;
    const int own = i == 0 ? fd : open("/dev/fuse", O_RDWR | O_CLOEXEC);
    pthread_t thread;
    if (i > 0 && ioctl(own, FUSE_DEV_IOC_CLONE, &source) != 0) return perror("clone"), 1;
    pthread_create(&thread, NULL, serve, (void*)(intptr_t)own);
  }
  puts("ready");
  fflush(stdout);
  char rest[64];
  while (read(0, rest, sizeof rest) > 0) {
  }
  return umount2(arguments[1], MNT_DETACH) != 0;
}
