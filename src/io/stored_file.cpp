#include "aq/io/stored_file.h"

#include <algorithm>

#include "io/checksum.h"
#include "io/safetensors.h"

namespace aq {
namespace {

constexpr Index kPiece = Index{4} << 20;

}  // namespace

struct SafetensorsFile::State {
  PosixFile file;
  std::vector<RawTensor> tensors = {};
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : state_(new State{PosixFile::open(path)}) {
  for (StoredTensor& tensor : read_safetensors_header(state_->file))
    state_->tensors.push_back({std::move(tensor.name), std::move(tensor.dtype),
                               std::move(tensor.shape), 0, tensor.offset, tensor.bytes});
}

SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;

const std::vector<RawTensor>& SafetensorsFile::tensors() const {
  return state_->tensors;
}

void SafetensorsFile::read(const RawTensor& tensor, Index first, std::span<std::byte> out) const {
  AQ_CHECK(first >= 0 && first <= tensor.bytes - std::ssize(out), tensor.name, ": bytes ", first,
           " + ", out.size());
  state_->file.read_at(tensor.offset + first, out);
}

std::string SafetensorsFile::checksum(const RawTensor& tensor) const {
  return stored_checksum(state_->file, tensor.offset, tensor.bytes);
}

std::string file_checksum(const std::filesystem::path& path) {
  const PosixFile file = PosixFile::open(path);
  return stored_checksum(file, 0, file.size());
}

bool same_files(const std::filesystem::path& a, const std::filesystem::path& b) {
  const PosixFile files[] = {PosixFile::open(a), PosixFile::open(b)};
  const Index bytes = files[0].size();
  if (bytes != files[1].size()) return false;
  std::vector<std::byte> pieces[2];
  for (Index done = 0; done < bytes; done += kPiece) {
    for (int i : {0, 1}) {
      pieces[i].resize(std::min(kPiece, bytes - done));
      files[i].read_at(done, pieces[i]);
    }
    if (pieces[0] != pieces[1]) return false;
  }
  return true;
}

}  // namespace aq
