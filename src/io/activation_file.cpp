#include "aq/io/activation_file.h"

#include "aq/core/text.h"
#include "io/checksum.h"
#include "io/hdf5.h"
#include "io/posix_file.h"

namespace aq {
namespace {

constexpr const char* kOperation = "read the saved activations";
constexpr const char* kHint = "the run can go on without them: remove the directory activations";

const char* group_of(ActivationsOf model) {
  return model == ActivationsOf::quantized ? "lanes" : "original_lanes";
}

std::span<const float> values_of(const LaneActivations& lane) {
  AQ_CHECK(lane.rows.rows <= 1 || lane.rows.stride == lane.rows.columns, lane.rows.stride);
  return {lane.rows.data, static_cast<std::size_t>(lane.rows.rows * lane.rows.columns)};
}

Checksum checksum_of(const LaneActivations& lane) {
  Checksum checksum(str(lane.lane, lane.model == ActivationsOf::original ? " original" : ""));
  checksum.add(str(lane.rows.rows, " ", lane.rows.columns), std::as_bytes(values_of(lane)));
  return checksum;
}

void read_lane(const hdf5::Object& dataset, const LaneActivations& lane) {
  if (hdf5::shape(dataset) != std::vector<Index>{lane.rows.rows, lane.rows.columns} ||
      hdf5::stored_type(dataset) != hdf5::Type::f32)
    throw Error(ErrorKind::input, kOperation, dataset.text(),
                str("it does not hold ", lane.rows.rows, " rows of ", lane.rows.columns, " floats"),
                kHint);
  hdf5::read_dataset(dataset, hdf5::Type::f32, lane.rows.data);
  check_checksum(dataset, checksum_of(lane), kOperation, kHint);
}

}  // namespace

void write_activations(const std::filesystem::path& path,
                       const std::vector<LaneActivations>& lanes) {
  const std::filesystem::path place = find_regular_output(path);
  PosixFile::create(partial_path(place));  // a plain reason when it cannot be made
  try {
    hdf5::Object file = hdf5::create_file(partial_path(place));
    for (const LaneActivations& lane : lanes) {
      const char* name = group_of(lane.model);
      const hdf5::Object group =
          hdf5::exists(file, name) ? hdf5::open_group(file, name) : hdf5::create_group(file, name);
      const hdf5::Object dataset =
          hdf5::write_dataset(group, str(lane.lane), hdf5::Type::f32,
                              {lane.rows.rows, lane.rows.columns}, values_of(lane).data());
      write_checksum(dataset, checksum_of(lane));
    }
    file.close();
    publish_partial(place);
  } catch (...) {
    remove_partial(place);
    throw;
  }
}

void read_activations(const std::vector<std::filesystem::path>& files,
                      const std::vector<LaneActivations>& lanes) {
  std::vector<bool> found(lanes.size(), false);
  for (const std::filesystem::path& path : files) {
    const hdf5::Object file = hdf5::open_file(path);
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      const std::string name = str(lanes[i].lane);
      const char* group_name = group_of(lanes[i].model);
      if (!hdf5::exists(file, group_name)) continue;
      const hdf5::Object group = hdf5::open_group(file, group_name);
      if (!hdf5::exists(group, name)) continue;
      if (found[i])
        throw Error(ErrorKind::input, kOperation, path.string(),
                    str("lane ", name, " is in another file too"), kHint);
      found[i] = true;
      read_lane(hdf5::open_dataset(group, name), lanes[i]);
    }
  }
  for (std::size_t i = 0; i < found.size(); ++i)
    if (!found[i])
      throw Error(ErrorKind::input, kOperation, files.empty() ? "" : files.front().string(),
                  str("no file holds lane ", lanes[i].lane), kHint);
}

}  // namespace aq
