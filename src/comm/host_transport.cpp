#include "aq/comm/transport.h"
#include "aq/core/error.h"

namespace aq {
namespace {

class HostTransport final : public Transport {
 public:
  explicit HostTransport(Communicator& comm) : comm_(comm) {}
  Communicator& control() const override { return comm_; }
  void start_send(ConstBuffer buffer, int to, int tag) override {
    check(buffer.device);
    comm_.start_send(buffer.bytes, to, tag);
  }
  void start_receive(Buffer buffer, int from, int tag) override {
    check(buffer.device);
    comm_.start_receive(buffer.bytes, from, tag);
  }
  void wait_all() override { comm_.wait_all(); }

 private:
  static void check(const Device& device) {
    if (device.kind != Device::Kind::cpu)
      throw Error(ErrorKind::internal, "send between ranks", "",
                  "the bytes are on a GPU, and aq-dist was built without a transport for GPUs");
  }

  Communicator& comm_;
};

}  // namespace

std::unique_ptr<Transport> make_host_transport(Communicator& comm) {
  return std::make_unique<HostTransport>(comm);
}

}  // namespace aq
