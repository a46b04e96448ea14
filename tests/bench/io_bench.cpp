/// Speed of writing and reading shards, beside plain writes into the same directory.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>

#include "aq/io/matrix_file.h"
#include "bench/bench.h"

namespace aq::bench {
namespace {

/// A directory of its own inside the one that was given; removed at the end.
struct Place {
  std::filesystem::path path;

  explicit Place(const std::filesystem::path& directory) {
    std::string name = directory / ".aq-io-bench-XXXXXX";
    if (mkdtemp(name.data()) == nullptr)
      throw Error(ErrorKind::input, "make a directory", name, std::strerror(errno),
                  "--directory names another place");
    path = name;
  }
  ~Place() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
};

/// A shard of random codes.
struct Shard {
  Place place;
  std::vector<NamedMatrix> matrices;
  std::vector<NamedMatrix> read{};
  double bytes = 0;

  Shard(const std::filesystem::path& directory, Index count, Index rows, Index columns)
      : place(directory) {
    std::mt19937 random(1);
    for (Index i = 0; i < count; ++i) {
      QuantizedMatrix m = make_quantized(Scheme{}, rows, columns);
      for (std::uint32_t& word : m.codes) word = static_cast<std::uint32_t>(random());
      for (float& scale : m.scales) scale = static_cast<float>(random() % 128 + 1) / 1024;
      bytes += static_cast<double>(stored_bits(m.scheme, rows, columns)) / 8;
      matrices.push_back({str("layers.0.experts.", i, ".up_proj"), std::move(m), "{}"});
    }
  }
  std::filesystem::path file() const { return place.path / "shard.h5"; }

  void write() const {
    MatrixWriter writer(file());
    for (const NamedMatrix& matrix : matrices) writer.write(matrix);
    writer.close();
  }
  void read_all() {
    read.clear();
    const MatrixReader reader(file());
    for (const std::string& name : reader.names()) read.push_back(reader.read(name));
  }
  /// Matrices that are not as they were written.
  double wrong() const {
    double count = static_cast<double>(read.size() != matrices.size());
    for (std::size_t i = 0; i < std::min(read.size(), matrices.size()); ++i)
      count += read[i].name != matrices[i].name || read[i].matrix != matrices[i].matrix;
    return count;
  }
};

Trial write_trial(const std::filesystem::path& directory, Index count, Index rows, Index columns) {
  const auto shard = std::make_shared<Shard>(directory, count, rows, columns);
  return {.work = shard->bytes,
          .bound = Bound::files,
          .reset = [shard] { std::filesystem::remove(shard->file()); },
          .body = [shard] { shard->write(); },
          .error =
              [shard] {
                shard->read_all();
                return shard->wrong();
              }};
}

Trial read_trial(const std::filesystem::path& directory, Index count, Index rows, Index columns) {
  const auto shard = std::make_shared<Shard>(directory, count, rows, columns);
  shard->write();
  return {.work = shard->bytes,
          .bound = Bound::memory,
          .body = [shard] { shard->read_all(); },
          .error = [shard] { return shard->wrong(); }};
}

/// Plain writes with one fsync.
Load file_load(const Options& options) {
  const Index blocks = options.small ? 1 : 32;
  const auto place = std::make_shared<Place>(options.directory);
  const auto block = std::make_shared<std::vector<char>>(std::size_t{4} << 20, 'x');
  return {static_cast<double>(blocks * std::ssize(*block)), [=] {
            const std::filesystem::path path = place->path / "plain";
            std::filesystem::remove(path);
            const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
            bool whole = file >= 0;
            for (Index i = 0; whole && i < blocks; ++i)
              whole = ::write(file, block->data(), block->size()) == std::ssize(*block);
            if (!whole || ::fsync(file) != 0)
              throw Error(ErrorKind::input, "write", path.string(), std::strerror(errno),
                          "--directory names another place");
            ::close(file);
          }};
}

/// As many bytes as the plain writes: an expert's matrices in int4.
std::vector<Case> cases(const Options& options) {
  const Index scale = options.small ? 8 : 1;
  const Index count = 128 / scale, rows = 1024 / scale, columns = 2048 / scale;
  const std::string shape = str(count, " x [", rows, ", ", columns, "] int4");
  return {{"write " + shape, [=] { return write_trial(options.directory, count, rows, columns); }},
          {"read " + shape, [=] { return read_trial(options.directory, count, rows, columns); }}};
}

}  // namespace
}  // namespace aq::bench

int main(int argc, char** argv) {
  using namespace aq::bench;
  return run_alone(argc, argv,
                   {.about = "Speed of shards, beside plain writes with fsync into one directory",
                    .cases = cases,
                    .probes = {{Bound::files, {{"plain writes, one fsync", file_load}}}},
                    .writes_files = true});
}
