#include "nbd_device.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "thread_name.h"

namespace memferry {
namespace {

constexpr uint32_t kBlockBytes = 4096;
constexpr uint32_t kSectorBytes = 512;

std::string pathOf(int index) { return "/dev/nbd" + std::to_string(index); }

Failure explain(Failure failure, int index) {
  if (failure.error == EPERM || failure.error == EACCES) {
    failure.message = "only root may attach an NBD device";
  } else if (failure.error == EBUSY) {
    failure.message = index < 0 ? "no NBD device is free: run sudo modprobe nbd nbds_max=64" : pathOf(index) + " is in use";
  } else if (failure.error == ENODEV || failure.error == ENOENT || failure.error == EINVAL) {
    if (index >= 0) failure.message = "there is no " + pathOf(index) + " to be had (" + failure.message + ")";
  }
  return failure;
}

}  // namespace

std::shared_ptr<NbdDevice> NbdDevice::attach(const Options& options, Failure& failure) {
  std::shared_ptr<NbdDevice> made(new NbdDevice(options));
  NbdNetlink::Device device = made->description();
  device.index = options.index;
  std::vector<Descriptor> kernelEnds;
  made->connections_.resize(options.connections);
  for (unsigned slot = 0; slot < options.connections; slot++) {
    kernelEnds.push_back(made->serveOne(slot, failure));
    if (failure) return nullptr;
    device.sockets.push_back(kernelEnds.back().get());
  }
  failure = explain(made->tellKernel(device), options.index);
  if (failure) {
    made->stop();
    return nullptr;
  }
  made->index_ = device.index;
  if (!made->ioctl_) made->keeper_ = std::thread([raw = made.get()] { raw->keep(); });
  return made;
}

Failure NbdDevice::tellKernel(NbdNetlink::Device& device) {
  NbdNetlink netlink;
  Failure failure = options_.byIoctl ? Failure::named("ENODEV", "by ioctl") : netlink.open();
  if (!failure) return options_.again ? netlink.reconfigure(device) : netlink.connect(device);
  // No client at all, one that is older than netlink, or no netlink for us.
  const bool refused = failure.error == EPERM || failure.error == EACCES || failure.error == EAFNOSUPPORT;
  if ((failure.code != "ENODEV" && !refused) || options_.again || ::access("/sys/block/nbd0", F_OK) != 0) return failure;
  ioctl_ = std::make_unique<NbdIoctl>();
  return ioctl_->connect(device);
}

NbdNetlink::Device NbdDevice::description() const {
  NbdNetlink::Device device;
  device.index = index_;
  device.bytes = options_.region->bytes();
  device.blockBytes = device.bytes % kBlockBytes == 0 ? kBlockBytes : kSectorBytes;
  device.flags = nbd::kHasFlags | nbd::kSendFlush | nbd::kSendFua | nbd::kSendTrim | nbd::kCanMultiConn;
  if (options_.readOnly) device.flags |= nbd::kReadOnly;
  device.timeoutSeconds = options_.timeoutSeconds;
  device.deadSeconds = options_.deadSeconds;
  device.identifier = options_.identifier;
  return device;
}

Descriptor NbdDevice::serveOne(size_t slot, Failure& failure) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    failure = Failure::system(errno, "socketpair");
    return Descriptor();
  }
  Descriptor kernelEnd(ends[0]);
  const auto target =
      std::make_shared<const NbdExport>(NbdExport{"", "", options_.region, options_.readOnly});
  auto connection = std::make_unique<NbdConnection>(none_, target, Descriptor(ends[1]));
  NbdConnection* const started = connection.get();
  {
    const std::lock_guard lock(mutex_);
    connections_[slot] = std::move(connection);
  }
  // Before the kernel has its end: it may ask at once.
  started->start([this, slot] {
    const std::lock_guard lock(mutex_);
    over_.push_back(slot);
    changed_.notify_all();
  });
  return kernelEnd;
}

void NbdDevice::keep() {
  becomeHelperThread("memferry-nbd-ke");
  for (;;) {
    std::vector<std::unique_ptr<NbdConnection>> ended;
    std::vector<size_t> slots;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopped_ || !over_.empty(); });
      if (stopped_) return;
      slots.swap(over_);
      for (const size_t slot : slots) ended.push_back(std::move(connections_[slot]));
    }
    // Joined: what they were doing is done before the kernel says it again.
    ended.clear();
    NbdNetlink::Device device = description();
    std::vector<Descriptor> kernelEnds;
    Failure failure;
    for (const size_t slot : slots) {
      kernelEnds.push_back(serveOne(slot, failure));
      if (failure) return;
      device.sockets.push_back(kernelEnds.back().get());
    }
    NbdNetlink netlink;
    failure = netlink.open();
    // Refused: somebody has let the device go.
    if (failure || netlink.reconfigure(device)) return;
  }
}

Failure NbdDevice::detach(bool writeBack) {
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return {};
  }
  // What the page cache holds: the kernel's own disconnect drops it. A fenced region takes nothing any more.
  const bool open = writeBack && options_.region->gate() != Gate::fenced;
  const int fd = open ? ::open(pathOf(index_).c_str(), O_RDWR | O_CLOEXEC) : -1;
  if (fd >= 0) {
    ::fsync(fd);  // best effort: the gate may refuse
    ::close(fd);
  }
  {
    // The keeper must not take the end of the connections for a reason to make new ones.
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }
  NbdNetlink netlink;
  Failure failure = ioctl_ ? ioctl_->disconnect() : netlink.open();
  if (!failure && !ioctl_) failure = netlink.disconnect(index_);
  stop();
  return failure;
}

void NbdDevice::stop() {
  std::vector<std::unique_ptr<NbdConnection>> ending;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }
  const std::lock_guard stopLock(stopMutex_);
  if (keeper_.joinable()) keeper_.join();
  {
    const std::lock_guard lock(mutex_);
    ending.swap(connections_);
  }
  for (const auto& connection : ending) {
    if (connection) connection->cut();
  }
  if (ioctl_) ioctl_->join();
}

}  // namespace memferry
