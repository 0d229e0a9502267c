/*
 * Makes a mapping of an unmodified program a region: LD_PRELOAD=memferry-shim.so.
 *
 *     MEMFERRY_UFFD=SOCKET     where `--export uffd:unix:SOCKET` listens
 *     MEMFERRY_MAP=anon:SIZE   the first anonymous mmap of that length (KiB, MiB, GiB, or bytes)
 *     MEMFERRY_MAP=file:PATH   the first mmap of that file, from its beginning
 *     MEMFERRY_TRACKING=sync   as on kernels before 6.7
 *
 * The program's own userfaultfd is handed to memferry, which answers its page faults. A copy stays open here: while
 * memferry is away, who touches a missing page waits, and never reads zeros; one thread hands it over again when
 * memferry is back. What was written is brought to the region at msync, munmap and exit, besides when memferry asks.
 *
 * Where anything of this cannot be done, the program's mmap fails and says so: memory that silently holds zeros would
 * be worse.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PAGE 4096ul
#define TMPFS 0x01021994
/* Newer than some headers. */
#define WP_UNPOPULATED (1ull << 13)
#define WP_ASYNC (1ull << 15)
#define RETRY_US 200000
#define ANSWER_S 60
/* How long the end of the program waits for memferry to come back. */
#define EXIT_S 10
#define EXPORTED __attribute__((visibility("default")))

typedef void* (*Mmap)(void*, size_t, int, int, int, off_t);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct {
  uint8_t* at;
  size_t length;
  int fault;
  int socket; /* -1 while memferry is away */
  pid_t pid;  /* of the process that mapped it: a child has nothing to hand over */
} region = {.fault = -1, .socket = -1};

static int report(const char* format, ...) {
  const int kept = errno;
  va_list more;
  va_start(more, format);
  fputs("memferry-shim: ", stderr);
  vfprintf(stderr, format, more);
  fputc('\n', stderr);
  va_end(more);
  errno = kept;
  return -1;
}

static void* next(const char* name) { return dlsym(RTLD_NEXT, name); }

/* --- which mapping --- */

static size_t parseSize(const char* text) {
  char* end;
  const unsigned long long number = strtoull(text, &end, 10);
  int shift = 0;
  if (*end == 'K' || *end == 'k') shift = 10;
  if (*end == 'M' || *end == 'm') shift = 20;
  if (*end == 'G' || *end == 'g') shift = 30;
  return (size_t)number << shift;
}

static size_t pages(size_t length) { return (length + PAGE - 1) / PAGE * PAGE; }

static int isWanted(size_t length, int flags, int fd, off_t offset) {
  const char* const what = getenv("MEMFERRY_MAP");
  if (!what || !getenv("MEMFERRY_UFFD") || region.at) return 0;
  if (strncmp(what, "anon:", 5) == 0) return (flags & MAP_ANONYMOUS) && pages(length) == pages(parseSize(what + 5));
  if (strncmp(what, "file:", 5) == 0 && !(flags & MAP_ANONYMOUS) && offset == 0) {
    struct stat wanted, given;
    return stat(what + 5, &wanted) == 0 && fstat(fd, &given) == 0 && wanted.st_dev == given.st_dev &&
           wanted.st_ino == given.st_ino;
  }
  return 0;
}

static int isOnTmpfs(int fd) {
  struct statfs info;
  return fstatfs(fd, &info) == 0 && info.f_type == TMPFS;
}

/* --- the userfaultfd --- */

static int newFault(void) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (fd >= 0 || errno == ENOSYS) return fd;
  const int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    fd = ioctl(device, _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK);
    close(device);
    if (fd >= 0) return fd;
  }
  /* Then a system call that meets a missing page fails with EFAULT. */
  return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
}

static int agree(int fd, uint64_t* features) {
  struct uffdio_api api = {.api = UFFD_API, .features = *features};
  if (ioctl(fd, UFFDIO_API, &api) != 0) return -1;
  *features = api.features;
  return 0;
}

/* Opens it with what the kernel has of `wanted`; answers with what that is. */
static int openFault(uint64_t wanted, uint64_t* got) {
  uint64_t has = 0;
  const int probe = newFault();
  if (probe < 0) return -1;
  if (agree(probe, &has) != 0) {
    close(probe);
    return -1;
  }
  close(probe);
  *got = wanted & has;
  const int fd = newFault();
  uint64_t all = *got;
  if (fd < 0 || agree(fd, &all) == 0) return fd;
  close(fd);
  return -1;
}

static int watch(uint8_t* at, size_t length, int isShared, int isFile) {
  const char* const tracking = getenv("MEMFERRY_TRACKING");
  uint64_t wanted = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
                    UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM |
                    UFFD_FEATURE_WP_HUGETLBFS_SHMEM | WP_UNPOPULATED;
  if (!tracking || strcmp(tracking, "sync") != 0) wanted |= WP_ASYNC;
  uint64_t got;
  /* Only for who may trace: without it a child would read zeros. */
  int fd = openFault(wanted | UFFD_FEATURE_EVENT_FORK, &got);
  const int follows = fd >= 0 && (got & UFFD_FEATURE_EVENT_FORK);
  if (fd < 0) fd = openFault(wanted, &got);
  if (fd < 0) {
    return report("no userfaultfd (%s): run sudo sysctl vm.unprivileged_userfaultfd=1, or give this user /dev/userfaultfd",
                  strerror(errno));
  }
  if (!follows) madvise(at, length, MADV_DONTFORK);
  struct uffdio_register area = {.range = {.start = (uintptr_t)at, .len = length},
                                 .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP |
                                         (isFile ? UFFDIO_REGISTER_MODE_MINOR : 0)};
  /* Nobody has touched it yet: whatever is found written later was. Memory of our own tells by being there. */
  struct uffdio_writeprotect protect = {.range = area.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
  if (ioctl(fd, UFFDIO_REGISTER, &area) != 0 || (isShared && ioctl(fd, UFFDIO_WRITEPROTECT, &protect) != 0)) {
    report("this memory cannot be followed here (%s): shared memory needs Linux 5.19, private memory 5.7", strerror(errno));
    close(fd);
    return -1;
  }
  return fd;
}

/* --- the conversation --- */

static int say(int socket, const char* text, int descriptor) {
  struct iovec part = {.iov_base = (void*)text, .iov_len = strlen(text)};
  union {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (descriptor >= 0) {
    message.msg_control = control.room;
    message.msg_controllen = sizeof control.room;
    struct cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(rights), &descriptor, sizeof descriptor);
  }
  return sendmsg(socket, &message, MSG_NOSIGNAL) == (ssize_t)part.iov_len ? 0 : -1;
}

/* A line without its end; 0, or -1 at the end of the connection. */
static int hear(int socket, char* line, size_t room) {
  for (size_t length = 0; length + 1 < room;) {
    const ssize_t got = recv(socket, line + length, 1, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return -1;
    if (line[length] == '\n') {
      line[length] = '\0';
      return 0;
    }
    length++;
  }
  return -1;
}

/* Connects and hands over. -1: memferry is not there. -2: it refused, and said why in `answer`. */
static int handOver(char* answer, size_t room) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char* const path = getenv("MEMFERRY_UFFD");
  if (strlen(path) >= sizeof address.sun_path) {
    snprintf(answer, room, "MEMFERRY_UFFD has more than 107 bytes");
    return -2;
  }
  strcpy(address.sun_path, path);
  const int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (made < 0) return -1;
  const struct timeval patience = {.tv_sec = ANSWER_S};
  struct ucred peer;
  socklen_t length = sizeof peer;
  char text[256];
  snprintf(text, sizeof text, "[{\"base_host_virt_addr\":%lu,\"size\":%zu,\"offset\":0,\"page_size\":%lu}]",
           (unsigned long)(uintptr_t)region.at, region.length, PAGE);
  if (connect(made, (struct sockaddr*)&address, sizeof address) == 0) {
    /* It reads what was written here; where Yama is strict, nobody may who is not named. */
    if (getsockopt(made, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0) prctl(PR_SET_PTRACER, peer.pid);
    if (say(made, text, region.fault) == 0 && hear(made, answer, room) == 0) {
      if (strcmp(answer, "ok") == 0) {
        setsockopt(made, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        return made;
      }
      close(made);
      return -2;
    }
  }
  close(made);
  return -1;
}

/* Under the mutex. */
static void lose(void) {
  if (region.socket >= 0) close(region.socket);
  region.socket = -1;
}

/* What was written is in the region when this answers 0. `seconds`: how long to wait for it, 0: as long as it takes. */
static int flush(unsigned seconds) {
  if (!region.at || region.pid != getpid()) return 0;
  for (unsigned long tries = 1;; tries++) {
    char answer[128] = "";
    pthread_mutex_lock(&mutex);
    const int connected = region.socket >= 0;
    if (connected && (say(region.socket, "flush\n", -1) != 0 || hear(region.socket, answer, sizeof answer) != 0)) lose();
    pthread_mutex_unlock(&mutex);
    if (strcmp(answer, "ok") == 0) return 0;
    if (answer[0] != '\0') {
      errno = EIO;
      return report("memferry could not take what was written: %s", answer);
    }
    /* It is away: what was written waits with us. */
    usleep(RETRY_US);
    if (seconds > 0 && tries * RETRY_US > seconds * 1000000ul) {
      errno = EIO;
      return report("memferry is gone, and with it what was written since the last msync");
    }
  }
}

/* Hands over again whenever memferry has come back. */
static void* keepUp(void* unused) {
  (void)unused;
  for (;;) {
    usleep(RETRY_US);
    pthread_mutex_lock(&mutex);
    char byte;
    if (region.socket >= 0 && recv(region.socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) lose();
    const int away = region.socket < 0;
    pthread_mutex_unlock(&mutex);
    if (!away) continue;
    char answer[512] = "";
    const int made = handOver(answer, sizeof answer);
    if (made < 0) continue;
    pthread_mutex_lock(&mutex);
    region.socket = made;
    pthread_mutex_unlock(&mutex);
    /* Who waits for an answer that the one before had to give asks again. */
    struct uffdio_range all = {.start = (uintptr_t)region.at, .len = region.length};
    ioctl(region.fault, UFFDIO_WAKE, &all);
  }
  return NULL;
}

static int begin(uint8_t* at, size_t length, int isShared, int isFile) {
  const int fault = watch(at, length, isShared, isFile);
  if (fault < 0) return -1;
  region.at = at;
  region.length = length;
  region.fault = fault;
  region.pid = getpid();
  char answer[512] = "";
  region.socket = handOver(answer, sizeof answer);
  if (region.socket == -2) {
    report("%s", answer);
  } else if (region.socket == -1) {
    report("nobody listens at %s: start memferry with --export uffd:unix:%s first", getenv("MEMFERRY_UFFD"),
           getenv("MEMFERRY_UFFD"));
  } else {
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&thread, NULL, keepUp, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) return pthread_detach(thread);
    report("no thread: %s", strerror(error));
  }
  region.at = NULL;
  region.fault = region.socket = -1;
  close(fault);
  return -1;
}

/* --- what the program calls --- */

static void* map(const char* name, void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  Mmap real = (Mmap)next(name);
  if (!isWanted(length, flags, fd, offset)) return real(address, length, protection, flags, fd, offset);
  /* A file on a disk cannot be followed: its bytes come from the region, into memory of the program's own. */
  const int isFile = !(flags & MAP_ANONYMOUS) && (flags & MAP_SHARED) && isOnTmpfs(fd);
  const int keep = flags & ~(MAP_POPULATE | MAP_SHARED | MAP_PRIVATE | MAP_SHARED_VALIDATE);
  void* const at = isFile || (flags & MAP_ANONYMOUS)
                       ? real(address, length, protection, flags & ~MAP_POPULATE, fd, offset)
                       : real(address, length, protection | PROT_WRITE, keep | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const int isShared = isFile || ((flags & MAP_ANONYMOUS) && (flags & MAP_SHARED));
  if (at == MAP_FAILED || begin(at, pages(length), isShared, isFile) == 0) return at;
  munmap(at, length);
  errno = EIO;
  return MAP_FAILED;
}

EXPORTED void* mmap(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  return map("mmap", address, length, protection, flags, fd, offset);
}

EXPORTED void* mmap64(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  return map("mmap64", address, length, protection, flags, fd, offset);
}

static int isOurs(const void* address, size_t length) {
  return region.at && (const uint8_t*)address < region.at + region.length && (const uint8_t*)address + length > region.at;
}

EXPORTED int msync(void* address, size_t length, int flags) {
  int (*const real)(void*, size_t, int) = (int (*)(void*, size_t, int))next("msync");
  const int result = real(address, length, flags);
  return result == 0 && isOurs(address, length) ? flush(0) : result;
}

EXPORTED int munmap(void* address, size_t length) {
  int (*const real)(void*, size_t) = (int (*)(void*, size_t))next("munmap");
  if (isOurs(address, length)) flush(0);
  return real(address, length);
}

__attribute__((destructor)) static void end(void) { flush(EXIT_S); }
