#include "aq/io/activation_file.h"

#include "aq/core/text.h"
#include "io/checksum.h"
#include "io/hdf5.h"
#include "io/posix_file.h"

namespace aq {
namespace {

constexpr const char* kLanes = "lanes";
constexpr const char* kOperation = "read the saved activations";
constexpr const char* kHint = "the run can go on without them: remove the directory activations";

Checksum checksum_of(const LaneActivations& lane) {
  Checksum checksum(str(lane.lane));
  checksum.add(str(lane.rows.rows, " ", lane.rows.columns),
               std::as_bytes(std::span(lane.rows.values)));
  return checksum;
}

LaneActivations read_lane(const hdf5::Object& dataset, Index lane, Index columns) {
  const std::vector<Index> shape = hdf5::shape(dataset);
  if (shape.size() != 2 || shape[1] != columns || hdf5::stored_type(dataset) != hdf5::Type::f32)
    throw Error(ErrorKind::input, kOperation, dataset.text(),
                str("it does not hold rows of ", columns, " floats"), kHint);
  LaneActivations result{lane, Matrix(shape[0], shape[1])};
  hdf5::read_dataset(dataset, hdf5::Type::f32, result.rows.values.data());
  check_checksum(dataset, checksum_of(result), kOperation, kHint);
  return result;
}

}  // namespace

void write_activations(const std::filesystem::path& path,
                       const std::vector<LaneActivations>& lanes) {
  const std::filesystem::path place = find_regular_output(path);
  PosixFile::create(partial_path(place));  // a plain reason when it cannot be made
  try {
    hdf5::Object file = hdf5::create_file(partial_path(place));
    {
      const hdf5::Object group = hdf5::create_group(file, kLanes);
      for (const LaneActivations& lane : lanes) {
        const hdf5::Object dataset =
            hdf5::write_dataset(group, str(lane.lane), hdf5::Type::f32,
                                {lane.rows.rows, lane.rows.columns}, lane.rows.values.data());
        write_checksum(dataset, checksum_of(lane));
      }
    }
    file.close();
    publish_partial(place);
  } catch (...) {
    remove_partial(place);
    throw;
  }
}

std::vector<LaneActivations> read_activations(const std::vector<std::filesystem::path>& files,
                                              Index first, Index count, Index columns) {
  std::vector<LaneActivations> lanes(count);
  std::vector<bool> found(lanes.size(), false);
  for (const std::filesystem::path& path : files) {
    const hdf5::Object file = hdf5::open_file(path);
    const hdf5::Object group = hdf5::open_group(file, kLanes);
    for (Index lane = first; lane < first + count; ++lane) {
      if (!hdf5::exists(group, str(lane))) continue;
      const auto at = static_cast<std::size_t>(lane - first);
      if (found[at])
        throw Error(ErrorKind::input, kOperation, path.string(),
                    str("lane ", lane, " is in another file too"), kHint);
      found[at] = true;
      lanes[at] = read_lane(hdf5::open_dataset(group, str(lane)), lane, columns);
    }
  }
  for (std::size_t i = 0; i < found.size(); ++i)
    if (!found[i])
      throw Error(ErrorKind::input, kOperation, files.empty() ? "" : files.front().string(),
                  str("no file holds lane ", first + static_cast<Index>(i)), kHint);
  return lanes;
}

}  // namespace aq
