// What NbdConnection answers.
#include <algorithm>
#include <cerrno>
#include <mutex>

#include "nbd_connection.h"

namespace memferry {

using nbd::Chunk;
using nbd::Command;

namespace {

constexpr size_t kMaxExtents = 2048;
// READs of this much and more are not copied where they need not be.
constexpr size_t kAttachedBytes = 2 << 10;

}  // namespace

bool NbdConnection::serve(Request& request, NbdOutput& out) {
  if (request.command == Command::read) return serveRead(request, out);
  Region& region = *agreed_.target->region;
  const Admission admission = region.begin(request.access(), request.offset, request.length);
  if (admission.status == Admission::kWait) return false;
  int error = admission.status;
  if (!error) {
    switch (request.command) {
      case Command::write:
        error = region.writeAt(request.payload, request.length, request.offset);
        break;
      case Command::trim:
      case Command::writeZeroes:
        error = region.zeroAt(request.offset, request.length, request.flags & nbd::kFlagNoHole,
                              request.flags & nbd::kFlagFastZero);
        break;
      default:
        break;  // CACHE: it is all here
    }
    region.end(admission);
  }
  if (!error && (request.flags & nbd::kFlagFua)) {
    // What is left of it: see runCall().
    request.command = Command::flush;
    request.flags = 0;
    return false;
  }
  reply(request, error, out);
  return true;
}

// A structured READ leaves in pieces, each with its own admission: what is here goes out before the rest is
// waited for, and a client that reads slowly never holds the gate. A simple one cannot take success back.
bool NbdConnection::serveRead(Request& request, NbdOutput& out) {
  Region& region = *agreed_.target->region;
  const bool whole = !agreed_.structured || (request.flags & nbd::kFlagDf);
  const uint64_t most = whole ? kNbdMaxPayload : NbdOutput::kPieceBytes;
  while (request.length > 0) {
    const uint64_t length = std::min(request.length, most);
    if (out.full() && !flush(out)) return true;
    // A whole one that is large has a buffer of its own.
    std::vector<uint8_t> large;
    const size_t headAt = out.length();
    const bool fits = length <= NbdOutput::kPieceBytes;
    const Admission admission = region.begin(Access::read, request.offset, length);
    if (admission.status == Admission::kWait) return false;
    int error = admission.status;
    if (!error) {
      if (agreed_.structured && region.knownZero(request.offset, length)) {
        region.end(admission);
        chunkHead(request, Chunk::offsetHole, length == request.length, 12, out);
        out.u64(request.offset).u32(static_cast<uint32_t>(length));
        request.offset += length;
        request.length -= length;
        continue;
      }
      if (agreed_.structured) {
        chunkHead(request, Chunk::offsetData, length == request.length, length + 8, out);
        out.u64(request.offset);
      } else {
        out.u32(nbd::kSimpleReplyMagic).u32(0).u64(request.cookie);
      }
      const uint8_t* const bytes = length >= kAttachedBytes ? region.view(request.offset, length) : nullptr;
      if (bytes) {
        // What is sent after end() is what a slow network would deliver late; the memory stays.
        region.end(admission);
        out.attach(bytes, length);
        request.offset += length;
        request.length -= length;
        continue;
      }
      if (!fits) large.resize(length);
      uint8_t* const into = fits ? out.extend(length) : large.data();
      error = region.readAt(into, length, request.offset);
      region.end(admission);
    }
    if (error) {
      out.shorten(out.length() - headAt);
      reply(request, error, out);
      return true;
    }
    if (!fits) {
      out.attach(large.data(), length);
      if (!flush(out)) return true;
    }
    request.offset += length;
    request.length -= length;
  }
  return true;
}

void NbdConnection::serveStatus(const Request& request, NbdOutput& out) {
  Region& region = *agreed_.target->region;
  if (region.gate() == Gate::fenced) return reply(request, ESHUTDOWN, out);
  const size_t most = request.flags & nbd::kFlagReqOne ? 1 : kMaxExtents;
  const auto answer = [&](uint32_t context, Region::Status kind, bool done) {
    const auto extents = region.status(kind, request.offset, request.length, most);
    if (out.full()) flush(out);
    if (agreed_.extended) {
      chunkHead(request, Chunk::blockStatusExtended, done, 8 + extents.size() * 16, out);
      out.u32(context).u32(static_cast<uint32_t>(extents.size()));
      for (const auto& extent : extents) out.u64(extent.length).u64(extent.flags);
    } else {
      chunkHead(request, Chunk::blockStatus, done, 4 + extents.size() * 8, out);
      out.u32(context);
      for (const auto& extent : extents) out.u32(static_cast<uint32_t>(extent.length)).u32(extent.flags);
    }
  };
  if (agreed_.allocation) answer(kNbdAllocationContext, Region::Status::allocation, !agreed_.dirty);
  if (agreed_.dirty) answer(kNbdDirtyContext, Region::Status::dirty, true);
}

void NbdConnection::chunkHead(const Request& request, Chunk type, bool done, uint64_t length, NbdOutput& out) {
  out.u32(agreed_.extended ? nbd::kExtendedReplyMagic : nbd::kStructuredReplyMagic)
      .u16(done ? nbd::kChunkDone : 0)
      .u16(static_cast<uint16_t>(type))
      .u64(request.cookie);
  if (agreed_.extended) {
    out.u64(request.asked).u64(length);
  } else {
    out.u32(static_cast<uint32_t>(length));
  }
}

void NbdConnection::reply(const Request& request, int error, NbdOutput& out) {
  // Only these have to be structured; a simple reply is shorter.
  const bool structured = agreed_.extended || (agreed_.structured && (request.command == Command::read ||
                                                                      request.command == Command::blockStatus));
  if (!structured) {
    out.u32(nbd::kSimpleReplyMagic).u32(nbd::wireError(error)).u64(request.cookie);
  } else if (error) {
    chunkHead(request, Chunk::error, true, 6, out);
    out.u32(nbd::wireError(error)).u16(0);
  } else {
    chunkHead(request, Chunk::none, true, 0, out);
  }
}

bool NbdConnection::flush(NbdOutput& out) {
  if (out.length() > 0 && !broken_.load()) {
    const std::lock_guard lock(sendMutex_);
    if (!sendAll(socket_.get(), out.parts().data(), out.parts().size())) broken_.store(true);
  }
  out.clear();
  return !broken_.load();
}

}  // namespace memferry
