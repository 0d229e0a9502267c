#include "fuse_mounter.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

extern char** environ;

namespace memferry {
namespace {

constexpr const char* kDevice = "/dev/fuse";
constexpr const char* kType = "fuse.memferry";
constexpr int kCapSysAdmin = 21;

struct MountEntry {
  std::string device;
  std::string type;
};

// mountinfo writes a space as \040.
std::string unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>(std::strtol(text.substr(i + 1, 3).c_str(), nullptr, 8));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

// The topmost mount at `directory`. From /proc and not by stat(): a look at a FUSE mount asks its
// server, which may be dead, hung, or us.
std::optional<MountEntry> mountAt(const std::string& directory) {
  std::ifstream table("/proc/self/mountinfo");
  std::optional<MountEntry> found;
  for (std::string line; std::getline(table, line);) {
    std::istringstream fields(line);
    std::string id, parent, device, root, point, field, type;
    fields >> id >> parent >> device >> root >> point;
    if (unescape(point) != directory) continue;
    while (fields >> field && field != "-") {
    }
    fields >> type;
    found = MountEntry{device, type};  // later lines are on top
  }
  return found;
}

bool hasSysAdmin() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("CapEff:", 0) != 0) continue;
    return (std::strtoull(line.c_str() + 7, nullptr, 16) >> kCapSysAdmin) & 1;
  }
  return false;
}

std::string findHelper() {
  const char* path = std::getenv("PATH");
  for (const char* name : {"fusermount3", "fusermount"}) {
    std::istringstream directories(std::string(path ? path : "") + ":/usr/bin:/bin");
    for (std::string directory; std::getline(directories, directory, ':');) {
      const std::string file = directory + "/" + name;
      if (!directory.empty() && ::access(file.c_str(), X_OK) == 0) return file;
    }
  }
  return {};
}

// Runs the helper and waits for it; `socket`, if any, becomes its descriptor 3. Answers its exit
// status, or -1.
int runHelper(const std::string& helper, std::vector<std::string> arguments, int socket) {
  arguments.insert(arguments.begin(), helper);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::vector<char*> environment;
  for (char** entry = environ; *entry; entry++) {
    if (std::strncmp(*entry, "_FUSE_COMMFD=", 13) != 0) environment.push_back(*entry);
  }
  std::string variable = "_FUSE_COMMFD=3";
  if (socket >= 0) environment.push_back(variable.data());
  environment.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (socket >= 0) posix_spawn_file_actions_adddup2(&actions, socket, 3);
  pid_t child = -1;
  const int spawned = ::posix_spawn(&child, helper.c_str(), &actions, nullptr, argv.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  if (spawned != 0) return -1;
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    // The runtime may reap children for us; then there is no status to be had.
    if (errno != EINTR) return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int receiveDescriptor(int socket) {
  char byte;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  do {
    got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  const cmsghdr* header = got > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (!header || header->cmsg_type != SCM_RIGHTS) return -1;
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return fd;
}

bool isChannel(int fd) {
  struct stat given, device;
  return ::fstat(fd, &given) == 0 && S_ISCHR(given.st_mode) && ::stat(kDevice, &device) == 0 &&
         given.st_rdev == device.st_rdev;
}

// The number of the connection that a channel is of; empty where the kernel does not tell.
std::string connectionOf(int fd) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(fd));
  std::string field, value;
  for (std::string line; std::getline(info, line);) {
    std::istringstream(line) >> field >> value;
    if (field == "fuse_connection:") return value;
  }
  return {};
}

bool writeFile(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  ::close(fd);
  return written;
}

}  // namespace

FuseProbe probeFuse() {
  if (::access(kDevice, F_OK) != 0) {
    return {false, "/dev/fuse is missing", "run: sudo modprobe fuse (in a container: --device /dev/fuse)"};
  }
  // The setuid helper opens it with the caller's rights too.
  const int fd = ::open(kDevice, O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    return {false, std::string("/dev/fuse does not open: ") + std::strerror(errno),
            "run: sudo chmod 666 /dev/fuse (in a container: --device /dev/fuse)"};
  }
  ::close(fd);
  if (hasSysAdmin() || !findHelper().empty()) return {true, "", ""};
  return {false, "not root, and fusermount3 is not installed",
          "run: sudo apt-get install fuse3 (or as root; in a container: --cap-add SYS_ADMIN)"};
}

Failure FuseMounter::mount(const Options& options) {
  Failure failure = prepareDirectory(options.directory);
  if (!failure) {
    withHelper_ = !hasSysAdmin();
    failure = withHelper_ ? mountWithHelper(options.allowOther) : mountAsRoot(options.allowOther);
  }
  if (failure) {
    closeChannel();
    removeDirectory();
    return failure;
  }
  mounted_ = true;
  if (const auto entry = mountAt(directory_)) device_ = entry->device;
  openAbort();
  return {};
}

Failure FuseMounter::adopt(const std::string& directory, int fd) {
  fd_ = fd;
  // As it is: a look at the mount point would ask a server, and there is none.
  directory_ = directory;
  if (!isChannel(fd)) return Failure::named("EINVAL", "what was handed over is no channel of a FUSE connection");
  const auto entry = mountAt(directory_);
  if (!entry || entry->type != kType) {
    return Failure::named("ENOTCONN", "'" + directory_ + "' is not mounted any more", directory_);
  }
  const std::string connection = connectionOf(fd);
  if (!connection.empty() && "0:" + connection != entry->device) {
    return Failure::named("ENOTCONN", "another mount is at '" + directory_ + "' by now", directory_);
  }
  withHelper_ = !hasSysAdmin();
  device_ = entry->device;
  mounted_ = true;
  openAbort();
  return {};
}

Failure FuseMounter::resolveDirectory(const std::string& directory) {
  // The parent is resolved and the last name is not: realpath() of a dead mount fails.
  std::string trimmed = directory;
  while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
  const size_t slash = trimmed.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : trimmed.substr(0, slash);
  const std::string name = slash == std::string::npos ? trimmed : trimmed.substr(slash + 1);
  char resolved[PATH_MAX];
  if (!::realpath(parent.c_str(), resolved)) return Failure::system(errno, "realpath", parent);
  directory_ = std::string(resolved) == "/" ? "/" + name : std::string(resolved) + "/" + name;
  struct stat info;
  if (name.empty() || name == "." || name == ".." ||
      (::lstat(directory_.c_str(), &info) == 0 && S_ISLNK(info.st_mode))) {
    if (!::realpath(directory.c_str(), resolved)) return Failure::system(errno, "realpath", directory);
    directory_ = resolved;
  }
  return {};
}

Failure FuseMounter::prepareDirectory(const std::string& directory) {
  if (::mkdir(directory.c_str(), 0755) == 0) {
    madeDirectory_ = true;
  } else if (errno != EEXIST) {
    return Failure::system(errno, "mkdir", directory);
  }
  if (Failure failure = resolveDirectory(directory)) return failure;
  struct stat info;

  // A server that was killed leaves its mount behind, and every access to it fails with ENOTCONN.
  for (auto entry = mountAt(directory_); entry && entry->type == kType; entry = mountAt(directory_)) {
    if (::stat(directory_.c_str(), &info) == 0 || errno != ENOTCONN) {
      return Failure::named("EBUSY", "'" + directory_ + "' is a live memferry mount", directory_);
    }
    if (!hasSysAdmin()) {
      if (runHelper(findHelper(), {"-u", "-z", "--", directory_}, -1) != 0) {
        return Failure::named("EBUSY", "'" + directory_ + "' is a dead mount that cannot be detached", directory_);
      }
    } else if (::umount2(directory_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0) {
      return Failure::system(errno, "umount2", directory_);
    }
  }

  DIR* listing = ::opendir(directory_.c_str());
  if (!listing) return Failure::system(errno, "opendir", directory_);
  bool empty = true;
  while (const dirent* entry = ::readdir(listing)) {
    empty = empty && (std::strcmp(entry->d_name, ".") == 0 || std::strcmp(entry->d_name, "..") == 0);
  }
  ::closedir(listing);
  if (!empty) return Failure::named("ENOTEMPTY", "'" + directory_ + "' is not empty", directory_);
  return {};
}

Failure FuseMounter::mountAsRoot(bool allowOther) {
  fd_ = ::open(kDevice, O_RDWR | O_CLOEXEC);
  if (fd_ < 0) return Failure::system(errno, "open", kDevice);
  // default_permissions: the kernel holds every caller to the file's mode and owner, which is what
  // keeps allow_other from showing the region to everyone.
  std::string data = "fd=" + std::to_string(fd_) + ",rootmode=40000,user_id=" + std::to_string(::geteuid()) +
                     ",group_id=" + std::to_string(::getegid()) + ",default_permissions";
  if (allowOther) data += ",allow_other";
  if (::mount("memferry", directory_.c_str(), kType, MS_NOSUID | MS_NODEV, data.c_str()) != 0) {
    return Failure::system(errno, "mount", directory_);
  }
  return {};
}

Failure FuseMounter::mountWithHelper(bool allowOther) {
  const std::string helper = findHelper();
  if (helper.empty()) return Failure::named("ENOENT", "not root, and fusermount3 is not installed");
  if (::access(kDevice, R_OK | W_OK) != 0) return Failure::system(errno, "open", kDevice);
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    return Failure::system(errno, "socketpair");
  }
  std::string options = "nosuid,nodev,default_permissions,fsname=memferry,subtype=memferry";
  if (allowOther) options += ",allow_other";
  const int status = runHelper(helper, {"-o", options, "--", directory_}, sockets[0]);
  ::close(sockets[0]);
  // Its exit status may be lost to the runtime's own child handling; the descriptor is the answer.
  fd_ = receiveDescriptor(sockets[1]);
  ::close(sockets[1]);
  if (fd_ >= 0) return {};
  return Failure::named("EPERM",
                        helper + " did not mount '" + directory_ + "' (exit status " + std::to_string(status) + ")",
                        directory_);
}

void FuseMounter::openAbort() {
  const size_t colon = device_.find(':');
  if (colon == std::string::npos) return;
  const std::string file = device_.substr(colon + 1) + "/abort";
  abortFd_ = ::open(("/sys/fs/fuse/connections/" + file).c_str(), O_WRONLY | O_CLOEXEC);
#if defined(SYS_fsopen) && defined(SYS_fsconfig) && defined(SYS_fsmount)
  if (abortFd_ >= 0) return;
  // Nobody mounted the control file system. A private mount of it, attached nowhere, serves as well.
  constexpr unsigned kCloexec = 1, kCreate = 6;  // FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC, FSCONFIG_CMD_CREATE
  const int context = static_cast<int>(::syscall(SYS_fsopen, "fusectl", kCloexec));
  if (context < 0) return;
  if (::syscall(SYS_fsconfig, context, kCreate, nullptr, nullptr, 0) == 0) {
    const int root = static_cast<int>(::syscall(SYS_fsmount, context, kCloexec, 0));
    if (root >= 0) {
      abortFd_ = ::openat(root, file.c_str(), O_WRONLY | O_CLOEXEC);
      ::close(root);
    }
  }
  ::close(context);
#endif
}

void FuseMounter::unmount() {
  if (!mounted_) return;
  mounted_ = false;
  const auto entry = mountAt(directory_);
  // Somebody has unmounted it, and perhaps mounted something else: not ours to remove.
  if (!entry || entry->type != kType || (!device_.empty() && entry->device != device_)) return;
  if (withHelper_) {
    const std::string helper = findHelper();
    if (runHelper(helper, {"-u", "-q", "--", directory_}, -1) == 0) return;
    runHelper(helper, {"-u", "-q", "-z", "--", directory_}, -1);
    return;
  }
  // Plain first: it waits for the page cache to be written back, which a lazy one leaves for later.
  if (::umount2(directory_.c_str(), UMOUNT_NOFOLLOW) == 0) return;
  ::umount2(directory_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
}

bool FuseMounter::abort() { return abortFd_ >= 0 && ::write(abortFd_, "1", 1) == 1; }

void FuseMounter::closeChannel() {
  if (fd_ >= 0) ::close(fd_);
  if (abortFd_ >= 0) ::close(abortFd_);
  fd_ = abortFd_ = -1;
}

void FuseMounter::removeDirectory() {
  if (madeDirectory_) ::rmdir(directory_.c_str());  // best effort: it may hold something by now
  madeDirectory_ = false;
}

bool FuseMounter::setReadAhead(uint64_t bytes) const {
  return !device_.empty() && writeFile("/sys/class/bdi/" + device_ + "/read_ahead_kb", std::to_string(bytes / 1024));
}

int FuseMounter::clone() const {
  const int fd = ::open(kDevice, O_RDWR | O_CLOEXEC);
  if (fd < 0) return -1;
  uint32_t source = static_cast<uint32_t>(fd_);
  if (::ioctl(fd, FUSE_DEV_IOC_CLONE, &source) == 0) return fd;
  ::close(fd);
  return -1;
}

}  // namespace memferry
