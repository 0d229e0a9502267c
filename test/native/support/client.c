/*
 * What tests do to an export, from a process of its own: nobody may touch a mount from the JS thread of
 * the process that serves it.
 *
 * Prints a line per step, so that a test can wait for it, and exits 1 with the errno's name on failure.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int die(const char* what) {
  printf("error %s %s\n", what, strerrorname_np(errno));
  exit(1);
}

static void say(const char* line) {
  puts(line);
  fflush(stdout);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static uint8_t* map(int fd, size_t* bytes) {
  const off_t end = lseek(fd, 0, SEEK_END); /* a block device has no size for fstat() */
  if (end < 0) die("lseek");
  *bytes = end;
  uint8_t* at = mmap(NULL, *bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) die("mmap");
  return at;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const char* what = argv[1];
  const char* path = argv[2];
  const long a = argc > 3 ? atol(argv[3]) : 0;
  const long b = argc > 4 ? atol(argv[4]) : 0;
  const long c = argc > 5 ? atol(argv[5]) : 0;
  const int direct = strncmp(what, "direct-", 7) == 0 ? O_DIRECT : 0;
  const int readOnly = strstr(what, "read") != NULL;
  const int fd = open(path, (readOnly ? O_RDONLY : O_RDWR) | direct);
  if (fd < 0) die("open");
  say("open");
  void* buffer;
  if (posix_memalign(&buffer, 4096, 1 << 20)) return 2;

  if (strcmp(what, "read") == 0 || strcmp(what, "direct-read") == 0) { /* offset length: sum */
    const ssize_t got = pread(fd, buffer, b, a);
    if (got < 0) die("pread");
    uint64_t sum = 0;
    for (ssize_t i = 0; i < got; i++) sum += ((uint8_t*)buffer)[i];
    printf("read %zd %lu\n", got, sum);
  } else if (strcmp(what, "write") == 0 || strcmp(what, "direct-write") == 0) { /* offset length byte */
    memset(buffer, (int)c, b);
    const ssize_t put = pwrite(fd, buffer, b, a);
    if (put < 0) die("pwrite");
    printf("wrote %zd\n", put);
  } else if (strcmp(what, "fsync") == 0) {
    if (fsync(fd)) die("fsync");
    say("synced");
  } else if (strcmp(what, "truncate") == 0) { /* size */
    if (ftruncate(fd, a)) die("ftruncate");
    say("truncated");
  } else if (strcmp(what, "fallocate") == 0) { /* mode offset length */
    if (fallocate(fd, (int)a, b, c)) die("fallocate");
    say("done");
  } else if (strcmp(what, "map-write") == 0) { /* offset length byte; msync */
    size_t bytes;
    uint8_t* at = map(fd, &bytes);
    memset(at + a, (int)c, b);
    if (msync(at, bytes, MS_SYNC)) die("msync");
    say("synced");
  } else if (strcmp(what, "map-sum-read") == 0) { /* offset length */
    const uint8_t* at = mmap(NULL, b, PROT_READ, MAP_SHARED, fd, a);
    if (at == MAP_FAILED) die("mmap");
    uint64_t sum = 0;
    for (long i = 0; i < b; i++) sum += at[i];
    printf("sum %lu\n", sum);
  } else if (strcmp(what, "write-rounds") == 0) { /* offset length rounds: byte by round, fsync, read back */
    uint8_t* back = malloc(b);
    for (long n = 1; n <= c; n++) {
      memset(buffer, (int)n, b);
      if (pwrite(fd, buffer, b, a) != b) die("pwrite");
      if (fsync(fd)) die("fsync");
      if (posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)) die("fadvise");
      if (pread(fd, back, b, a) != b) die("pread");
      if (memcmp(buffer, back, b) != 0) die("compare");
      if (n == 1) say("round 1");
    }
  } else if (strcmp(what, "map-rounds") == 0) { /* offset length rounds: the same through a mapping */
    size_t bytes;
    uint8_t* at = map(fd, &bytes);
    for (long n = 1; n <= c; n++) {
      memset(at + a, (int)n, b);
      if (msync(at, bytes, MS_SYNC)) die("msync");
      if (n == 1) say("round 1");
    }
  } else if (strcmp(what, "map-dirty") == 0) { /* the same, then keep it dirty and mapped */
    size_t bytes;
    uint8_t* at = map(fd, &bytes);
    memset(at + a, (int)c, b);
    say("dirty");
    pause();
  } else if (strcmp(what, "map-count") == 0) { /* counts up at every page, for ever; a: pages */
    size_t bytes;
    uint8_t* at = map(fd, &bytes);
    for (uint64_t n = 1;; n++) {
      for (long page = 0; page < a; page++) __atomic_store_n((uint64_t*)(at + page * 4096), n, __ATOMIC_SEQ_CST);
      if (n == 1) say("counting");
    }
  } else if (strcmp(what, "map-scan-read") == 0) { /* reads random pages, for ever */
    struct stat info;
    if (fstat(fd, &info)) die("fstat");
    const volatile uint8_t* at = mmap(NULL, info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) die("mmap");
    say("scanning");
    uint64_t sum = 0;
    for (unsigned seed = (unsigned)getpid();;) sum += at[rand_r(&seed) % (info.st_size / 4096) * 4096];
    return (int)sum;
  } else if (strcmp(what, "scribble") == 0) { /* random writes; a: seed, b: count */
    struct stat info;
    if (fstat(fd, &info)) die("fstat");
    unsigned seed = (unsigned)a;
    for (long n = 0; n < b; n++) {
      const off_t at = rand_r(&seed) % info.st_size;
      size_t length = 1 + rand_r(&seed) % 9000;
      if (at + (off_t)length > info.st_size) length = info.st_size - at;
      memset(buffer, rand_r(&seed), length);
      if (pwrite(fd, buffer, length, at) != (ssize_t)length) die("pwrite");
    }
    say("scribbled");
  } else if (strcmp(what, "bench-read") == 0 || strcmp(what, "bench-write") == 0) { /* 1 MiB steps over the file */
    struct stat info;
    if (fstat(fd, &info)) die("fstat");
    memset(buffer, 0x5a, 1 << 20);
    const double start = now();
    for (off_t at = 0; at + (1 << 20) <= info.st_size; at += 1 << 20) {
      const ssize_t done = readOnly ? pread(fd, buffer, 1 << 20, at) : pwrite(fd, buffer, 1 << 20, at);
      if (done != 1 << 20) die("io");
    }
    if (!readOnly && fsync(fd)) die("fsync");
    printf("MB/s %.0f\n", info.st_size / 1e6 / (now() - start));
  } else if (strcmp(what, "direct-bench-random-read") == 0) { /* a: seconds; 4 KiB O_DIRECT */
    struct stat info;
    if (fstat(fd, &info)) die("fstat");
    unsigned seed = 1;
    long count = 0;
    const double start = now();
    while (now() - start < a) {
      for (int i = 0; i < 100; i++, count++) {
        if (pread(fd, buffer, 4096, (off_t)(rand_r(&seed) % (info.st_size / 4096)) * 4096) != 4096) die("pread");
      }
    }
    printf("per second %.0f\n", count / (now() - start));
  } else {
    return 2;
  }
  fflush(stdout);
  return 0;
}
