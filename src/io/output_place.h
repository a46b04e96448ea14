#pragma once
/// Where an output goes when its path is a link, a device, a pipe or an open descriptor.

#include <filesystem>

namespace aq {

/// What a path names once all links are followed.
struct OutputPlace {
  enum class Kind {
    regular,     ///< a regular file, or nothing yet: written beside its place and renamed
    special,     ///< a device or a pipe, which must not be replaced: written straight
    descriptor,  ///< an open descriptor of this process (/dev/stdout, /dev/fd/3): written straight
  };
  Kind kind = Kind::regular;
  std::filesystem::path path;  ///< the last link's target; it need not exist
  int descriptor = -1;
};

/// Error{input} for a directory, a block device (nobody means to write over a disk) and links that
/// go round in circles.
OutputPlace find_output(const std::filesystem::path& path);
/// find_output() for a format that needs a regular file: Error{input} for anything else.
std::filesystem::path find_regular_output(const std::filesystem::path& path);

/// A new descriptor that writes to a place that is no regular file. A pipe that no process reads is
/// waited for `pipe_seconds`, and a line says so; then Error{input}.
int open_in_place(const OutputPlace& place, double pipe_seconds = 10);

}  // namespace aq
