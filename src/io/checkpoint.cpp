#include "aq/io/checkpoint.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>
#include <tuple>

#include "aq/core/hash.h"
#include "io/checkpoint_directory.h"
#include "io/checksum.h"
#include "io/safetensors.h"
#include "io/shape_text.h"

namespace aq {

namespace fs = std::filesystem;

struct Checkpoint::State {
  fs::path directory;
  std::string config;
  std::vector<fs::path> paths;
  std::vector<PosixFile> files;   // stay open: a reader never meets another version of a file
  std::vector<FileState> states;  // when they were opened
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, OtherTensor> others;

  void open_file(const fs::path& path);
  void add(const StoredTensor& stored);
  void open_single(const fs::path& path);
  void open_index(const fs::path& path);
  const TensorInfo& expect(const std::string& name, const std::vector<Index>& shape) const;
  std::string object(const TensorInfo& tensor) const {
    return str(paths[tensor.file].string(), ": ", tensor.name);
  }
  void read(const TensorInfo& tensor, Index first, Index count, float* out) const;
};

namespace {

/// Index of the first NaN or infinity, or -1.
Index find_not_finite(const float* values, Index count) {
  Index bad = 0;
  for (Index i = 0; i < count; ++i)
    bad += (std::bit_cast<std::uint32_t>(values[i]) & 0x7f800000u) == 0x7f800000u;
  if (bad == 0) return -1;
  return std::find_if(values, values + count, [](float v) { return !std::isfinite(v); }) - values;
}

/// Position of element `index` in a tensor of `shape`.
std::vector<Index> position(Index index, const std::vector<Index>& shape) {
  std::vector<Index> result(shape.size());
  for (std::size_t i = shape.size(); i-- > 0;) {
    result[i] = index % shape[i];
    index /= shape[i];
  }
  return result;
}

}  // namespace

Index TensorInfo::elements() const {
  return std::accumulate(shape.begin(), shape.end(), Index{1}, std::multiplies<>());
}

void Checkpoint::State::add(const StoredTensor& stored) {
  const Index file = static_cast<Index>(files.size()) - 1;
  if (const auto dtype = dtype_from_name(stored.dtype))
    tensors[stored.name] = {stored.name, *dtype, stored.shape, file, stored.offset, stored.bytes};
  else
    others[stored.name] = {stored.dtype, stored.shape, file, stored.offset, stored.bytes};
}

void Checkpoint::State::open_file(const fs::path& path) {
  files.push_back(PosixFile::open(path));
  states.push_back(files.back().state());
}

void Checkpoint::State::open_single(const fs::path& path) {
  paths.push_back(path);
  open_file(path);
  for (const StoredTensor& stored : read_safetensors_header(files.back())) add(stored);
}

void Checkpoint::State::open_index(const fs::path& path) {
  for (const auto& [file, names] : read_index(path)) {
    paths.push_back(path.parent_path() / file);
    if (!is_there(paths.back()))
      fail_open(paths.back(), str("the file is missing, but '", names.front(), "' should be in it"),
                "the download is not complete");
    open_file(paths.back());
    std::map<std::string, StoredTensor> stored;
    for (StoredTensor& tensor : read_safetensors_header(files.back()))
      stored[tensor.name] = std::move(tensor);
    for (const std::string& name : names) {
      const auto found = stored.find(name);
      if (found == stored.end())
        fail_open(paths.back(), str("the index says that '", name, "' is in it, but it is not"));
      add(found->second);
    }
  }
}

Checkpoint Checkpoint::open(const fs::path& directory) {
  check_directory(directory);
  auto state = std::make_shared<State>();
  state->directory = directory;
  state->config = read_config(directory);
  const fs::path single = directory / "model.safetensors";
  const fs::path index = directory / "model.safetensors.index.json";
  if (is_there(single))
    state->open_single(single);
  else if (is_there(index))
    state->open_index(index);
  else
    fail_open(directory, "it holds neither model.safetensors nor model.safetensors.index.json",
              "other formats (.bin, .gguf) must be converted first");
  return Checkpoint(std::move(state));
}

const fs::path& Checkpoint::directory() const {
  return state_->directory;
}
const std::string& Checkpoint::config_json() const {
  return state_->config;
}
fs::path Checkpoint::config_path() const {
  return state_->directory / "config.json";
}
const std::vector<fs::path>& Checkpoint::files() const {
  return state_->paths;
}
const std::map<std::string, TensorInfo>& Checkpoint::tensors() const {
  return state_->tensors;
}
const std::map<std::string, OtherTensor>& Checkpoint::other_tensors() const {
  return state_->others;
}
bool Checkpoint::has(const std::string& name) const {
  return state_->tensors.contains(name) || state_->others.contains(name);
}

const TensorInfo& Checkpoint::info(const std::string& name) const {
  const auto found = state_->tensors.find(name);
  if (found != state_->tensors.end()) return found->second;
  const auto other = state_->others.find(name);
  if (other == state_->others.end())
    throw Error(ErrorKind::input, "read a tensor", str(directory().string(), ": ", name),
                "the checkpoint has no such tensor");
  const fs::path& file = files()[other->second.file];
  throw Error(ErrorKind::input, "read a tensor", str(file.string(), ": ", name),
              str("dtype ", other->second.dtype, " is not supported yet"),
              "F32, F16, BF16, F8_E4M3 and U8 can be read");
}

const TensorInfo& Checkpoint::State::expect(const std::string& name,
                                            const std::vector<Index>& shape) const {
  const TensorInfo& tensor = tensors.at(name);
  if (tensor.shape != shape)
    throw Error(ErrorKind::input, "read a tensor", object(tensor),
                str("its shape is ", shape_text(tensor.shape), ", but config.json asks for ",
                    shape_text(shape)));
  return tensor;
}

/// Elements [first, first + count) as floats; only their bytes are read.
void Checkpoint::State::read(const TensorInfo& tensor, Index first, Index count, float* out) const {
  const PosixFile& file = files[tensor.file];
  const Index width = dtype_size(tensor.dtype);
  const Index piece = tensor.dtype == DType::f32 ? count : std::min(count, Index{1} << 19);
  ByteArray buffer;  // stays in the cache while it is converted
  if (tensor.dtype != DType::f32) buffer.resize(piece * width);
  for (Index done = 0; done < count; done += piece) {
    const Index now = std::min(piece, count - done);
    const Index offset = tensor.offset + (first + done) * width;
    const auto bytes = static_cast<std::size_t>(now * width);
    if (tensor.dtype == DType::f32) {
      file.read_at(offset, std::as_writable_bytes(std::span(out, static_cast<std::size_t>(now))));
    } else {
      file.read_at(offset, std::span(buffer).first(bytes));
      to_float(tensor.dtype, buffer.data(), now, out + done);
    }
  }
  const Index bad = find_not_finite(out, count);
  if (bad >= 0)
    throw Error(ErrorKind::input, "read a tensor", object(tensor),
                str("the value at ", shape_text(position(first + bad, tensor.shape)), " is ",
                    std::isnan(out[bad]) ? "NaN" : "infinite"));
}

std::vector<float> Checkpoint::read(const std::string& name,
                                    const std::vector<Index>& shape) const {
  info(name);  // whether it can be read at all
  const TensorInfo& tensor = state_->expect(name, shape);
  std::vector<float> values(tensor.elements());
  state_->read(tensor, 0, tensor.elements(), values.data());
  return values;
}

Matrix Checkpoint::read_matrix(const std::string& name, Index rows, Index columns) const {
  return read_rows(name, rows, columns, 0, rows);
}

Matrix Checkpoint::read_rows(const std::string& name, Index rows, Index columns, Index begin,
                             Index count) const {
  info(name);
  const TensorInfo& tensor = state_->expect(name, {rows, columns});
  AQ_CHECK(begin >= 0 && count >= 0 && begin <= rows - count, "rows ", begin, " + ", count, " of ",
           rows);
  Matrix result = Matrix::uninitialized(count, columns);
  state_->read(tensor, begin * columns, count * columns, result.values.data());
  return result;
}

void Checkpoint::read_elements(const std::string& name, const std::vector<Index>& shape,
                               Index first, Index count, float* out) const {
  info(name);
  const TensorInfo& tensor = state_->expect(name, shape);
  AQ_CHECK(first >= 0 && count >= 0 && first <= tensor.elements() - count, name, ": elements ",
           first, " + ", count);
  state_->read(tensor, first, count, out);
}

void Checkpoint::read_bytes(const std::string& name, const std::vector<Index>& shape, Index first,
                            std::span<std::uint8_t> out) const {
  info(name);
  const TensorInfo& tensor = state_->expect(name, shape);
  AQ_CHECK(first >= 0 && first <= tensor.bytes - std::ssize(out), name, ": bytes ", first, " + ",
           out.size());
  if (tensor.dtype != DType::u8)
    throw Error(ErrorKind::input, "read a tensor", state_->object(tensor),
                str("its dtype is ", dtype_name(tensor.dtype), ", but U8 is needed"));
  state_->files[tensor.file].read_at(tensor.offset + first, std::as_writable_bytes(out));
}

RawTensor Checkpoint::raw(const std::string& name) const {
  if (const auto other = other_tensors().find(name); other != other_tensors().end()) {
    const OtherTensor& t = other->second;
    return {name, t.dtype, t.shape, t.file, t.offset, t.bytes};
  }
  const TensorInfo& t = info(name);
  return {name, std::string(dtype_name(t.dtype)), t.shape, t.file, t.offset, t.bytes};
}

std::vector<RawTensor> Checkpoint::raw_tensors() const {
  std::vector<RawTensor> all;
  for (const auto& [name, t] : tensors()) all.push_back(raw(name));
  for (const auto& [name, t] : other_tensors()) all.push_back(raw(name));
  std::ranges::sort(all, {}, [](const RawTensor& t) { return std::tie(t.file, t.offset, t.name); });
  return all;
}

void Checkpoint::read_raw(const RawTensor& tensor, Index first, std::span<std::byte> out) const {
  AQ_CHECK(first >= 0 && first <= tensor.bytes - std::ssize(out), tensor.name, ": bytes ", first,
           " + ", out.size());
  state_->files[tensor.file].read_at(tensor.offset + first, out);
}

bool Checkpoint::same(const std::string& name, const std::string& other) const {
  constexpr Index kPiece = Index{1} << 20;
  const TensorInfo& a = info(name);
  const TensorInfo& b = info(other);
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  ByteArray bytes_of_a, bytes_of_b;
  const auto read = [&](const TensorInfo& tensor, Index at, ByteArray& bytes) {
    bytes.resize(std::min(kPiece, a.bytes - at));
    state_->files[tensor.file].read_at(tensor.offset + at, bytes);
  };
  for (Index at = 0; at < a.bytes; at += kPiece) {
    read(a, at, bytes_of_a);
    read(b, at, bytes_of_b);
    if (bytes_of_a != bytes_of_b) return false;
  }
  return true;
}

std::string Checkpoint::checksum(const std::string& name) const {
  const RawTensor tensor = raw(name);
  return stored_checksum(state_->files[tensor.file], tensor.offset, tensor.bytes);
}

std::vector<std::pair<std::string, std::string>> Checkpoint::file_states() const {
  std::vector<std::pair<std::string, std::string>> states;
  for (std::size_t i = 0; i < files().size(); ++i)
    states.emplace_back(files()[i].filename().string(),
                        str(state_->states[i].size, " bytes of ", state_->states[i].modified));
  return states;
}

void Checkpoint::check_unchanged() const {
  for (std::size_t i = 0; i < files().size(); ++i) {
    const FileState then = state_->states[i], now = state_->files[i].state();
    if (now.size != then.size || now.modified != then.modified)
      throw Error(ErrorKind::input, "read the checkpoint", files()[i].string(),
                  "it was written to while in use",
                  "start the same command again: it resumes, and repeats what read other weights");
  }
}

std::string Checkpoint::fingerprint() const {
  constexpr std::size_t kSamples = 64;
  constexpr Index kSampleBytes = 4096;
  std::uint64_t hash = fnv1a(config_json());
  for (const PosixFile& file : state_->files) hash = fnv1a(str("file ", file.size()), hash);
  for (const auto& [name, tensor] : tensors())
    hash = fnv1a(str(name, " ", dtype_name(tensor.dtype), shape_text(tensor.shape), tensor.file,
                     " ", tensor.offset, "\n"),
                 hash);
  for (const auto& [name, tensor] : other_tensors())
    hash = fnv1a(str(name, " ", tensor.dtype, shape_text(tensor.shape), "\n"), hash);
  const std::size_t step = tensors().size() / kSamples + 1;
  std::size_t number = 0;
  for (const auto& [name, tensor] : tensors()) {
    if (number++ % step != 0) continue;
    std::string sample(std::min(tensor.bytes, kSampleBytes), '\0');
    const Index offset = tensor.offset + (tensor.bytes - static_cast<Index>(sample.size())) / 2;
    state_->files[tensor.file].read_at(offset, std::as_writable_bytes(std::span(sample)));
    hash = fnv1a(sample, hash);
  }
  return hash_text(hash);
}

}  // namespace aq
