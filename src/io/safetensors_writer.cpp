#include "aq/io/safetensors_writer.h"

#include <algorithm>
#include <map>

#include "aq/core/json.h"
#include "io/checksum.h"
#include "io/posix_file.h"
#include "io/safetensors.h"

namespace aq {

Index TensorEntry::bytes() const {
  const auto bits = safetensors_element_bits(dtype);
  AQ_CHECK(bits, name, ": dtype ", dtype);
  Index elements = 1;
  for (const Index size : shape) elements = checked_multiply(elements, size, name);
  return ceil_div(checked_multiply(elements, *bits, name), 8);
}

struct SafetensorsWriter::State {
  struct Place {
    Index offset = 0, bytes = 0, written = 0;
    StoredChecksum checksum = {};
  };
  explicit State(const std::filesystem::path& target)
      : path(target), file(PosixFile::create(partial_path(target))) {}

  std::filesystem::path path;
  PosixFile file;
  std::map<std::string, Place> places;
  std::vector<std::string> order;
  Index missing = 0;  // bytes that were not written yet
  bool closed = false;
};

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::span<const TensorEntry> tensors)
    : state_(std::make_unique<State>(path)) {
  std::vector<const TensorEntry*> order;  // wider elements first: every tensor is aligned
  for (const TensorEntry& tensor : tensors) order.push_back(&tensor);
  std::ranges::stable_sort(order, std::greater{}, [](const TensorEntry* tensor) {
    return *safetensors_element_bits(tensor->dtype);
  });
  OrderedJson header;
  header["__metadata__"] = {{"format", "pt"}};
  for (const TensorEntry* tensor : order) {
    AQ_CHECK(!state_->places.contains(tensor->name), tensor->name, " appears twice");
    const Index begin = state_->missing, bytes = tensor->bytes();
    state_->missing += bytes;
    state_->order.push_back(tensor->name);
    state_->places[tensor->name] = {begin, bytes};
    header[tensor->name] = {{"dtype", tensor->dtype},
                            {"shape", tensor->shape},
                            {"data_offsets", {begin, begin + bytes}}};
  }
  std::string text = header.dump();
  text.resize(round_up(std::ssize(text), 8), ' ');
  const auto length = static_cast<std::uint64_t>(text.size());
  state_->file.write(std::as_bytes(std::span(&length, 1)));
  state_->file.write(std::as_bytes(std::span(text)));
  for (auto& [name, place] : state_->places) place.offset += 8 + std::ssize(text);
}

SafetensorsWriter::~SafetensorsWriter() {
  if (!state_->closed) remove_partial(state_->path);
}

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  State::Place& place = state_->places.at(name);
  AQ_CHECK(place.written <= place.bytes - std::ssize(bytes), name, ": bytes ", place.written, " + ",
           bytes.size(), " of ", place.bytes);
  state_->file.write_at(place.offset + place.written, bytes);
  place.checksum.add(bytes);
  place.written += std::ssize(bytes);
  state_->missing -= std::ssize(bytes);
}

std::vector<std::pair<std::string, std::string>> SafetensorsWriter::close() {
  AQ_CHECK(state_->missing == 0, state_->path.string(), ": ", state_->missing, " bytes missing");
  publish_partial(state_->path);
  state_->closed = true;
  std::vector<std::pair<std::string, std::string>> checksums;
  for (const std::string& name : state_->order)
    checksums.emplace_back(name, state_->places.at(name).checksum.text());
  return checksums;
}

void write_safetensors(const std::filesystem::path& path,
                       const std::vector<TensorToWrite>& tensors) {
  std::vector<TensorEntry> entries;
  for (const TensorToWrite& tensor : tensors)
    entries.push_back({tensor.name, std::string(dtype_name(tensor.dtype)), tensor.shape});
  SafetensorsWriter writer(path, entries);
  for (const TensorToWrite& tensor : tensors) writer.write(tensor.name, tensor.bytes);
  writer.close();
}

}  // namespace aq
