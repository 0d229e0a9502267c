/*
 * A program that uses a region by its path, told what to do line by line: nobody may touch an export from the JS
 * thread of the process that serves it.
 *
 *     export-user PATH
 *
 * A line is a word and two numbers; the bytes of a write follow it. The answer is `ok LENGTH`, then so many bytes, or
 * `error NAME`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint8_t* mapping;
static size_t mappedBytes;
static uint8_t* buffer;

static void ok(size_t length) {
  printf("ok %zu\n", length);
  fwrite(buffer, 1, length, stdout);
}

static int map(int fd) {
  if (mapping) return 0;
  const off_t end = lseek(fd, 0, SEEK_END); /* a block device has no size for fstat() */
  if (end < 0) return -1;
  mapping = mmap(NULL, (size_t)end, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapping == MAP_FAILED) {
    mapping = NULL;
    return -1;
  }
  mappedBytes = (size_t)end;
  return 0;
}

static int readAll(int fd, size_t length, off_t offset) {
  for (size_t done = 0; done < length;) {
    const ssize_t got = pread(fd, buffer + done, length - done, offset + (off_t)done);
    if (got < 0) return -1;
    if (got == 0) return errno = ENODATA, -1;
    done += (size_t)got;
  }
  return 0;
}

static int writeAll(int fd, size_t length, off_t offset) {
  for (size_t done = 0; done < length;) {
    const ssize_t put = pwrite(fd, buffer + done, length - done, offset + (off_t)done);
    if (put < 0) return -1;
    done += (size_t)put;
  }
  return 0;
}

/* -1 with errno; else the bytes to answer with. */
static ssize_t serve(int fd, const char* what, off_t offset, size_t length) {
  if (!strcmp(what, "read")) return readAll(fd, length, offset) ? -1 : (ssize_t)length;
  if (!strcmp(what, "write")) return writeAll(fd, length, offset);
  if (!strcmp(what, "map-read")) {
    if (map(fd)) return -1;
    memcpy(buffer, mapping + offset, length);
    return (ssize_t)length;
  }
  if (!strcmp(what, "map-write")) {
    if (map(fd)) return -1;
    memcpy(mapping + offset, buffer, length);
    return 0;
  }
  if (!strcmp(what, "sync")) return mapping && msync(mapping, mappedBytes, MS_SYNC) ? -1 : fsync(fd);
  /* So that the next read asks the export again. */
  if (!strcmp(what, "forget")) {
    if (mapping) munmap(mapping, mappedBytes);
    mapping = NULL;
    if (fsync(fd)) return -1;
    return posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  }
  if (!strcmp(what, "zero")) {
    const int hole = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, (off_t)length);
    /* A device that cannot: the kernel writes zeros for us. */
    if (hole == 0 || errno != EOPNOTSUPP) return hole;
    return fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, (off_t)length);
  }
  errno = ENOSYS;
  return -1;
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const int fd = open(argv[1], O_RDWR);
  if (fd < 0) {
    printf("error %s\n", strerrorname_np(errno));
    return 1;
  }
  char what[16];
  long offset;
  size_t length;
  size_t room = 0;
  while (scanf("%15s %ld %zu", what, &offset, &length) == 3 && getchar() == '\n') {
    if (length > room && !(buffer = realloc(buffer, room = length))) return 2;
    if (strstr(what, "write") && fread(buffer, 1, length, stdin) != length) return 2;
    const ssize_t answer = serve(fd, what, offset, length);
    if (answer < 0) {
      printf("error %s\n", strerrorname_np(errno));
    } else {
      ok((size_t)answer);
    }
    fflush(stdout);
  }
  return 0;
}
