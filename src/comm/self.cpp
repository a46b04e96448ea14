#include <cstdio>
#include <cstdlib>

#include "aq/comm/communicator.h"
#include "aq/core/error.h"

namespace aq {
namespace {

/// One rank: collectives have nothing to do, and there is nobody to send to.
class SelfCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void barrier() override {}
  void send(std::span<const std::byte>, int to, int) override { no_peer(to); }
  void receive(std::span<std::byte>, int from, int) override { no_peer(from); }
  void start_send(std::span<const std::byte>, int to, int) override { no_peer(to); }
  void start_receive(std::span<std::byte>, int from, int) override { no_peer(from); }
  void wait_all() override {}
  void broadcast(std::span<std::byte>, int root) override { AQ_CHECK(root == 0, "root ", root); }
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> bytes) override {
    return {{bytes.begin(), bytes.end()}};
  }
  void all_reduce_sum(std::span<std::int64_t>) override {}
  void all_reduce_max(std::span<std::int64_t>) override {}
  [[noreturn]] void abort(int exit_code) override {
    std::fflush(nullptr);
    std::_Exit(exit_code);
  }

 private:
  static void no_peer(int peer) {
    AQ_CHECK(false, "a message between the only rank and rank ", peer);
  }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator() {
  return std::make_unique<SelfCommunicator>();
}

}  // namespace aq
