// A region in this process's own memory.
//
// The bytes are those of the region's store, mapped a second time: nothing is copied. A page is mapped when it is
// touched first, and who touches one whose chunk is absent waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "failure.h"
#include "region.h"
#include "uffd_space.h"

namespace memferry {

class RegionMapping {
 public:
  static std::shared_ptr<RegionMapping> open(std::shared_ptr<Region> region, bool forceSync, Failure& failure);
  ~RegionMapping();
  RegionMapping(const RegionMapping&) = delete;
  RegionMapping& operator=(const RegionMapping&) = delete;

  uint8_t* data() const { return data_; }
  uint64_t bytes() const { return region_->bytes(); }
  UffdSpace::Tracking tracking() const { return space_->tracking(); }
  int flush() { return space_->flush(); }
  // Threads are gone after it. The memory stays until the object goes, and must not be touched.
  void stop() { space_->stop(); }

 private:
  explicit RegionMapping(std::shared_ptr<Region> region) : region_(std::move(region)) {}

  std::shared_ptr<Region> region_;
  uint8_t* data_ = nullptr;
  size_t length_ = 0;
  std::shared_ptr<UffdSpace> space_;
};

}  // namespace memferry
