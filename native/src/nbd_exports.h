// What an NBD server offers: regions by name. Shared by the server and its connections.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "failure.h"
#include "region.h"

namespace memferry {

struct NbdExport {
  std::string name;
  std::string description;
  std::shared_ptr<Region> region;
  bool readOnly = false;
};

class NbdExports {
 public:
  Failure add(NbdExport made) {
    const std::lock_guard lock(mutex_);
    if (order_.size() >= kMax) return Failure::named("ENOSPC", "a server has at most 256 exports");
    for (const auto& entry : order_) {
      if (entry->name == made.name) {
        return Failure::named("EEXIST", "there is an export '" + made.name + "' already");
      }
    }
    order_.push_back(std::make_shared<const NbdExport>(std::move(made)));
    return {};
  }

  // The empty name is the first one's too. Null: there is none of this name.
  std::shared_ptr<const NbdExport> find(const std::string& name) const {
    const std::lock_guard lock(mutex_);
    for (const auto& entry : order_) {
      if (entry->name == name) return entry;
    }
    return name.empty() && !order_.empty() ? order_.front() : nullptr;
  }

  std::vector<std::shared_ptr<const NbdExport>> all() const {
    const std::lock_guard lock(mutex_);
    return order_;
  }

  void clear() {
    const std::lock_guard lock(mutex_);
    order_.clear();
  }

 private:
  static constexpr size_t kMax = 256;
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<const NbdExport>> order_;
};

}  // namespace memferry
