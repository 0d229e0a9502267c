/* A program that maps a file and stores into it when told.
 *
 * poke FILE: for each line "OFFSET BYTE" on standard input stores that byte there, through a shared mapping and without
 * msync, and answers "done".
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

int main(int argc, char **argv) {
  struct stat found;
  int file = argc == 2 ? open(argv[1], O_RDWR) : -1;
  if (file < 0 || fstat(file, &found) != 0) return perror("open"), 1;
  volatile unsigned char *map = mmap(NULL, found.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (map == MAP_FAILED) return perror("mmap"), 1;
  long offset;
  int byte;
  while (scanf("%ld %d", &offset, &byte) == 2) {
    map[offset] = (unsigned char)byte;
    puts("done");
    fflush(stdout);
  }
  return 0;
}
