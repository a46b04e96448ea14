#pragma once
/// Bulk data between ranks: sums, tokens, factors. What is small or collective goes through the
/// Communicator.

#include <memory>

#include "aq/comm/communicator.h"
#include "aq/core/buffer.h"

namespace aq {

/// Point to point, between buffers at the place where this transport moves them. Messages between
/// two ranks with the same tag arrive in order; a rank never sends to itself.
class Transport {
 public:
  virtual ~Transport() = default;
  /// The same ranks, for control.
  virtual Communicator& control() const = 0;
  /// Starts a transfer that wait_all completes. The bytes must live until then.
  virtual void start_send(ConstBuffer buffer, int to, int tag) = 0;
  virtual void start_receive(Buffer buffer, int from, int tag) = 0;
  virtual void wait_all() = 0;
};

/// Moves bytes in the memory of the CPU, as messages of the communicator, which must outlive it.
/// Any other place is Error{internal}.
std::unique_ptr<Transport> make_host_transport(Communicator& comm);

}  // namespace aq
