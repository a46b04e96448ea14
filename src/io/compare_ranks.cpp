#include "aq/io/compare_ranks.h"

#include <algorithm>
#include <map>
#include <string_view>

#include "aq/core/bytes.h"
#include "aq/core/hash.h"
#include "aq/core/host.h"
#include "aq/core/parallel.h"
#include "io/checksum.h"
#include "io/posix_file.h"

namespace aq {
namespace {

using Bytes = std::vector<std::byte>;

Bytes packed(const RankFields& fields) {
  ByteWriter out;
  for (const auto& [name, value] : fields) {
    out.text(name);
    out.text(value);
  }
  return out.take();
}

RankFields unpacked(const Bytes& bytes) {
  RankFields fields;
  for (ByteReader in(bytes); !in.at_end();) {
    std::string name = in.text();
    fields.emplace_back(std::move(name), in.text());
  }
  return fields;
}

/// What most ranks have; of equally many, what the first of them has.
std::size_t typical_rank(const std::vector<Bytes>& all) {
  const auto text = [](const Bytes& bytes) {
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  std::map<std::string_view, Index> count;
  for (const Bytes& one : all) ++count[text(one)];
  std::size_t best = 0;
  for (std::size_t rank = 1; rank < all.size(); ++rank)
    if (count[text(all[rank])] > count[text(all[best])]) best = rank;
  return best;
}

const std::string& value_of(const RankFields& fields, const std::string& name) {
  static const std::string absent = "absent";
  const auto found = std::ranges::find(fields, name, &RankFields::value_type::first);
  return found == fields.end() ? absent : found->second;
}

/// Name of the first field that differs. @pre One does.
std::string different_field(const RankFields& a, const RankFields& b) {
  for (const RankFields* fields : {&a, &b})
    for (const auto& [name, value] : *fields)
      if (value_of(a, name) != value_of(b, name)) return name;
  return a.empty() ? std::string() : a.front().first;
}

constexpr Index kBlockBytes = Index{16} << 20;  // of a file; the unit of a rank's share

struct Block {
  std::size_t file;
  Index offset, bytes;
};

std::vector<Block> blocks_of(const std::vector<FileState>& states) {
  std::vector<Block> blocks;
  for (std::size_t file = 0; file < states.size(); ++file)
    for (Index offset = 0; offset < states[file].size; offset += kBlockBytes)
      blocks.push_back({file, offset, std::min(kBlockBytes, states[file].size - offset)});
  return blocks;
}

}  // namespace

void compare_ranks(RankFields mine, Communicator& comm) {
  if (comm.size() == 1) return;
  mine.insert(mine.begin(), {"program version", AQ_VERSION});
  const Bytes bytes = packed(mine);
  const auto digests = all_gather_values(comm, std::vector{xxh64(bytes)});
  if (std::ranges::adjacent_find(digests, std::not_equal_to{}) == digests.end()) return;
  const auto all = comm.all_gather(bytes);
  const auto hosts = all_gather_values(comm, host_name());
  const auto name_of = [&](std::size_t rank) { return str("rank ", rank, " on ", hosts[rank]); };
  const std::size_t typical = typical_rank(all);
  const auto other = static_cast<std::size_t>(
      std::ranges::find_if(all, [&](const Bytes& one) { return one != all[typical]; }) -
      all.begin());
  const RankFields here = unpacked(all[other]), there = unpacked(all[typical]);
  const std::string field = different_field(here, there);
  constexpr std::size_t kShown = 400;
  throw Error(ErrorKind::input, "compare the ranks", name_of(other),
              str(field, " is '", value_of(here, field).substr(0, kShown), "', but '",
                  value_of(there, field).substr(0, kShown), "' for ", name_of(typical)),
              "every rank must be told and see the same; files that hosts have copies of may be "
              "out of date");
}

void compare_files(const std::string& what, const std::vector<std::filesystem::path>& paths,
                   Communicator& comm) {
  if (comm.size() == 1) return;
  std::vector<PosixFile> files;
  std::vector<FileState> states;
  for (const std::filesystem::path& path : paths) {
    files.push_back(PosixFile::open(path));
    states.push_back(files.back().state());
  }
  const auto seen = comm.all_gather(std::as_bytes(std::span(states)));
  const Bytes& mine = seen[comm.rank()];
  std::vector<std::size_t> group;  // the ranks that see the files that this one sees
  for (std::size_t rank = 0; rank < seen.size(); ++rank)
    if (seen[rank] == mine) group.push_back(rank);
  // Whether all groups are this one is the same for all ranks.
  if (group.size() == seen.size()) return;
  const std::vector<Block> blocks = blocks_of(states);
  const auto reader = [&](Index block) {
    return group[static_cast<std::size_t>(block) % group.size()];
  };
  std::vector<std::uint64_t> sums(blocks.size());
  parallel_for(std::ssize(blocks), [&](Index i) {
    if (reader(i) != static_cast<std::size_t>(comm.rank())) return;
    const Block& block = blocks[i];
    Bytes bytes(static_cast<std::size_t>(block.bytes));
    files[block.file].read_at(block.offset, bytes);
    sums[i] = xxh64(bytes);
  });
  const auto all = all_gather_values(comm, sums);
  std::vector<std::uint64_t> content(files.size());
  for (Index i = 0; i < std::ssize(blocks); ++i) {
    const auto at = static_cast<std::size_t>(i);
    std::uint64_t& sum = content[blocks[at].file];
    sum = xxh64(std::as_bytes(std::span(&all[reader(i)].at(at), 1)), sum);
  }
  RankFields fields;
  for (std::size_t file = 0; file < files.size(); ++file)
    fields.emplace_back(str(what, " ", paths[file].filename().string()),
                        str(states[file].size, " bytes, checksum ", hash_text(content[file])));
  compare_ranks(std::move(fields), comm);
}

}  // namespace aq
