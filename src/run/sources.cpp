#include "aq/run/sources.h"

#include "aq/core/parallel.h"
#include "aq/core/text.h"

namespace aq {

std::vector<std::vector<std::string>> tensors_of_parts(const ModelFiles& files) {
  const Model& model = files.model;
  std::vector<std::vector<std::string>> parts(model.layers.size() + 1);
  for (const ExpectedTensor& tensor : expected_tensors(model))
    // Scales of a weight that is stored plainly after all are not there.
    if (files.checkpoint.has(tensor.name)) parts[tensor.part].push_back(tensor.name);
  if (model.tied_head) parts.back().push_back(model.embedding);
  return parts;
}

std::vector<SourceChecksums> read_sources(const ModelFiles& files, Index first, Index count,
                                          Communicator& comm) {
  const std::vector<std::vector<std::string>> parts = tensors_of_parts(files);
  std::vector<std::string> names;
  for (Index part = first; part < count; ++part) {
    const auto& some = parts[part];
    names.insert(names.end(), some.begin(), some.end());
  }
  std::vector<std::string> sums(names.size());
  const Index ranks = comm.size();
  parallel_for(ceil_div(std::ssize(names) - comm.rank(), ranks), [&](Index i) {
    const auto at = static_cast<std::size_t>(comm.rank() + i * ranks);
    sums[at] = files.checkpoint.checksum(names[at]);
  });
  std::string mine;
  for (const std::string& sum : sums) mine += sum;
  const std::vector<std::string> all = all_gather_values(comm, mine);
  std::vector<std::size_t> read(all.size());
  std::vector<SourceChecksums> result;
  std::size_t at = 0;
  for (Index part = first; part < count; ++part) {
    SourceChecksums& checksums = result.emplace_back();
    for (const std::string& name : parts[part]) {
      constexpr std::size_t kDigits = 16;
      const std::size_t rank = at++ % all.size();
      checksums.emplace_back(name, all[rank].substr(kDigits * read[rank]++, kDigits));
    }
  }
  return result;
}

std::string source_difference(const SourceChecksums& then, const SourceChecksums& now) {
  if (then.empty()) return "what was read for it was not recorded";
  for (std::size_t i = 0; i < std::min(then.size(), now.size()); ++i) {
    const auto& [name, sum] = now[i];
    if (then[i].first != name) return str(name, " is read where ", then[i].first, " was");
    if (then[i].second != sum)
      return str(name, " has the checksum ", sum, ", but ", then[i].second, " was read for it");
  }
  if (then.size() == now.size()) return {};
  return str(now.size(), " tensors are read instead of ", then.size());
}

}  // namespace aq
