#include "aq/core/host.h"

#include <unistd.h>

#include <array>

namespace aq {

std::string host_name() {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return host.data();
}

}  // namespace aq
