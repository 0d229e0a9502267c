/*
 * Touches memory page by page in a random order and says how many touches a second that were.
 *
 *     faults BYTES STEP own      answered by the smallest handler there is, STEP bytes at a time
 *     faults BYTES STEP mapped   answered by whoever LD_PRELOAD brings
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int fault;
static uint8_t* memory;
/* As large: who serves a region reads from all of it. */
static uint8_t* source;
static size_t step;

static void* handle(void* unused) {
  (void)unused;
  struct pollfd watched = {.fd = fault, .events = POLLIN};
  for (;;) {
    struct uffd_msg messages[64];
    poll(&watched, 1, -1);
    const ssize_t got = read(fault, messages, sizeof messages);
    for (ssize_t i = 0; i < got / (ssize_t)sizeof *messages; i++) {
      const uintptr_t offset = (messages[i].arg.pagefault.address - (uintptr_t)memory) / step * step;
      struct uffdio_copy copy = {.dst = (uintptr_t)memory + offset,
                                 .src = (uintptr_t)source + offset,
                                 .len = step};
      ioctl(fault, UFFDIO_COPY, &copy);
    }
  }
  return NULL;
}

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const size_t bytes = strtoull(argv[1], NULL, 10);
  step = strtoull(argv[2], NULL, 10);
  memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  if (!strcmp(argv[3], "own")) {
    source = aligned_alloc(4096, bytes);
    memset(source, 1, bytes);
    fault = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register area = {.range = {(uintptr_t)memory, bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (fault < 0 || ioctl(fault, UFFDIO_API, &api) || ioctl(fault, UFFDIO_REGISTER, &area)) return 1;
    pthread_t thread;
    pthread_create(&thread, NULL, handle, NULL);
  }
  const size_t count = bytes / step;
  uint32_t* const order = malloc(count * sizeof *order);
  for (size_t i = 0; i < count; i++) order[i] = (uint32_t)i;
  unsigned seed = 1;
  for (size_t i = count - 1; i > 0; i--) {
    const size_t other = (size_t)rand_r(&seed) % (i + 1);
    const uint32_t kept = order[i];
    order[i] = order[other];
    order[other] = kept;
  }
  struct timespec begin, end;
  uint64_t sum = 0;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (size_t i = 0; i < count; i++) sum += *(volatile uint8_t*)(memory + order[i] * step);
  clock_gettime(CLOCK_MONOTONIC, &end);
  const double seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
  if (sum != count) return 1; /* every byte is 1 */
  printf("%.0f\n", (double)count / seconds);
  return 0;
}
