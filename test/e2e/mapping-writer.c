/* A workload that stores into a shared mapping and never calls msync.
 *
 * mapping-writer FILE ACK: stores into random pages until SIGUSR1; then stores (page * 0x9E3779B97F4A7C15) + 1 at
 * the start of every page, makes the file ACK, and stays, its mapping intact, until it is killed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile sig_atomic_t last;

static void on_signal(int number) {
  (void)number;
  last = 1;
}

int main(int argc, char **argv) {
  struct stat found;
  int file = argc == 3 ? open(argv[1], O_RDWR) : -1;
  if (file < 0 || fstat(file, &found) != 0) return perror("open"), 1;
  size_t pages = (size_t)found.st_size / 4096;
  volatile uint64_t *map = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (map == MAP_FAILED) return perror("mmap"), 1;
  signal(SIGUSR1, on_signal);
  puts("{\"event\":\"writing\"}");
  fflush(stdout);
  for (uint64_t i = 0; !last; i++) {
    map[(size_t)rand() % pages * 512] = i;
    if (i % 16 == 0) usleep(1000);
  }
  for (size_t page = 0; page < pages; page++) map[page * 512] = page * 0x9E3779B97F4A7C15u + 1;
  int ack = open(argv[2], O_CREAT | O_WRONLY, 0600);
  if (ack < 0) return perror("ack"), 1;
  for (;;) pause();
}
