/*
 * A program that has a region as its memory, told what to do line by line as export-user is. Run it under
 * memferry-shim.so, with MEMFERRY_MAP=anon:SIZE, or with MEMFERRY_MAP=file:PATH and that file.
 *
 *     uffd-user SIZE [shared] [FILE]
 *
 * Besides the words of export-user: `drop` gives pages back (MADV_DONTNEED), `move` has the kernel move the mapping,
 * `fork` has a child answer `read` from then on, `touch` reads one byte of each page with as many threads as the length.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static uint8_t* memory;
static size_t bytes;
static uint8_t* buffer;

static void* touch(void* at) {
  return (void*)(uintptr_t) * (volatile uint8_t*)at;
}

static ssize_t inChild(off_t offset, size_t length) {
  int ends[2];
  if (pipe(ends)) return -1;
  const pid_t child = fork();
  if (child < 0) return -1;
  if (child == 0) {
    const uint8_t* at = memory + offset;
    for (size_t left = length; left > 0;) {
      const size_t step = left < 4096 ? left : 4096;
      memcpy(buffer, at, step);
      if (write(ends[1], buffer, step) != (ssize_t)step) _exit(1);
      at += step;
      left -= step;
    }
    _exit(0);
  }
  close(ends[1]);
  size_t done = 0;
  for (ssize_t got; done < length && (got = read(ends[0], buffer + done, length - done)) > 0;) done += (size_t)got;
  close(ends[0]);
  int status;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) errno = EFAULT;
  return WIFEXITED(status) && done == length ? (ssize_t)length : -1;
}

static ssize_t serve(const char* what, off_t offset, size_t length) {
  if (strcmp(what, "touch") && strcmp(what, "sync") && strcmp(what, "forget") && strcmp(what, "move") &&
      (offset < 0 || length > bytes || (size_t)offset > bytes - length)) {
    errno = ERANGE;
    return -1;
  }
  if (!strcmp(what, "read") || !strcmp(what, "map-read")) {
    memcpy(buffer, memory + offset, length);
    return (ssize_t)length;
  }
  if (!strcmp(what, "write") || !strcmp(what, "map-write")) {
    memcpy(memory + offset, buffer, length);
    return 0;
  }
  if (!strcmp(what, "sync")) return msync(memory, bytes, MS_SYNC);
  if (!strcmp(what, "forget")) return 0;
  if (!strcmp(what, "drop")) return madvise(memory + offset, length, MADV_DONTNEED);
  if (!strcmp(what, "zero")) {
    /* Whole pages are given back; MADV_REMOVE is for memory that others share. */
    if (madvise(memory + offset, length, MADV_REMOVE) == 0) return 0;
    return madvise(memory + offset, length, MADV_DONTNEED);
  }
  if (!strcmp(what, "fork")) return inChild(offset, length);
  if (!strcmp(what, "move")) {
    /* Somewhere else, and no longer than before. */
    void* const to = mmap(NULL, bytes + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (to == MAP_FAILED) return -1;
    void* const moved = mremap(memory, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    if (moved == MAP_FAILED) return -1;
    memory = moved;
    return 0;
  }
  if (!strcmp(what, "touch")) {
    pthread_t threads[64];
    const size_t count = length < 64 ? length : 64;
    for (size_t i = 0; i < count; i++) pthread_create(&threads[i], NULL, touch, memory + offset);
    uint8_t sum = 0;
    for (size_t i = 0; i < count; i++) {
      void* value;
      pthread_join(threads[i], &value);
      sum = (uint8_t)(uintptr_t)value;
    }
    buffer[0] = sum;
    return 1;
  }
  errno = ENOSYS;
  return -1;
}

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  bytes = strtoull(argv[1], NULL, 10);
  const int shared = argc > 2 && !strcmp(argv[2], "shared");
  const char* const file = argc > 3 ? argv[3] : NULL;
  const int fd = file ? open(file, O_RDWR) : -1;
  const int flags = (shared ? MAP_SHARED : MAP_PRIVATE) | (file ? 0 : MAP_ANONYMOUS);
  buffer = malloc(bytes > 4096 ? bytes : 4096);
  memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (memory == MAP_FAILED) {
    printf("error %s\n", strerrorname_np(errno));
    return 1;
  }
  char what[16];
  long offset;
  size_t length;
  while (scanf("%15s %ld %zu", what, &offset, &length) == 3 && getchar() == '\n') {
    if (strstr(what, "write") && (length > bytes || fread(buffer, 1, length, stdin) != length)) return 2;
    const ssize_t answer = serve(what, offset, length);
    if (answer < 0) {
      printf("error %s\n", strerrorname_np(errno));
    } else {
      printf("ok %zd\n", answer);
      fwrite(buffer, 1, (size_t)answer, stdout);
    }
    fflush(stdout);
  }
  return 0;
}
