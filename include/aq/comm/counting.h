#pragma once
/// A communicator that counts what passes through it.

#include "aq/comm/communicator.h"

namespace aq {

/// Payload bytes of one rank. An all-gather counts its own bytes as sent once, and those of the
/// others as received.
struct MessageBytes {
  Index sent = 0;
  Index received = 0;
};

/// Passes every call on to another communicator.
class CountingCommunicator final : public Communicator {
 public:
  /// @pre `inner` outlives this
  explicit CountingCommunicator(Communicator& inner) : inner_(inner) {}
  const MessageBytes& bytes() const { return bytes_; }

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  void barrier() override { inner_.barrier(); }
  void send(std::span<const std::byte> bytes, int to, int tag) override;
  void receive(std::span<std::byte> bytes, int from, int tag) override;
  void start_send(std::span<const std::byte> bytes, int to, int tag) override;
  void start_receive(std::span<std::byte> bytes, int from, int tag) override;
  void wait_all() override { inner_.wait_all(); }
  void broadcast(std::span<std::byte> bytes, int root) override;
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> bytes) override;
  void all_reduce_sum(std::span<std::int64_t> values) override { inner_.all_reduce_sum(values); }
  void all_reduce_max(std::span<std::int64_t> values) override { inner_.all_reduce_max(values); }
  [[noreturn]] void abort(int exit_code) override;

 private:
  Communicator& inner_;
  MessageBytes bytes_;
};

}  // namespace aq
