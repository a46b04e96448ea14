#pragma once
/// Ranks compare what they were told and what they read before they work: a result must not be made
/// of two recipes or two checkpoints because a host has copies of its own.

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "aq/comm/communicator.h"

namespace aq {

/// Name and value of each thing that all ranks must have in common. Paths are none of them.
using RankFields = std::vector<std::pair<std::string, std::string>>;

/// Throws Error{input} on every rank, naming rank, host and field, unless all ranks have the same
/// fields and run the same version of the program. One exchange of a few bytes, and one of the
/// fields where they differ. Collective.
void compare_ranks(RankFields mine, Communicator& comm);

/// The same for files by their content. Files with the same inode, size and times on all ranks are
/// the same files; otherwise each group of ranks that sees the same files reads them once, in
/// shares. Collective.
void compare_files(const std::string& what, const std::vector<std::filesystem::path>& paths,
                   Communicator& comm);

}  // namespace aq
