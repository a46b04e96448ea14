#pragma once
/// HDF5 files of quantized matrices: the same layout in shards and in the merged model.h5.
/// `/matrices/<dotted module name>/` with datasets `codes`, `scales`, `zeros` and attributes
/// `scheme`, `shape`, `stats` and `checksum` (docs/design.md). Readable with h5py in five lines.

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aq/formats/quantized_matrix.h"

namespace aq {

struct NamedHessian;

/// A matrix with its name and what is to be said about it.
struct NamedMatrix {
  std::string name;
  QuantizedMatrix matrix;
  std::string stats_json;  ///< one JSON object: method, tokens, weight_sum, damping, error, ...
  /// How inputs are rounded when the matrix is served (attribute `activation`); see
  /// simulate_dynamic.
  std::optional<Scheme> activation = std::nullopt;
};

/// A matrix as it is stored, to be judged by who reads it.
struct UncheckedMatrix {
  NamedMatrix named;    ///< its scales not yet divided by the global scale
  bool intact = false;  ///< the checksum is that of the content
};

/// Writes a matrix file: everything goes to `path` + ".partial", close() syncs and renames it, so a
/// file that exists is whole. Object times are off, strings have fixed length, datasets are
/// contiguous: equal content in equal order gives equal bytes. Not closed: the partial is removed.
class MatrixWriter {
 public:
  explicit MatrixWriter(const std::filesystem::path& path);
  ~MatrixWriter();
  MatrixWriter(const MatrixWriter&) = delete;
  MatrixWriter& operator=(const MatrixWriter&) = delete;

  /// String attribute of the root group (format version, model, recipe, ...).
  void set_attribute(const std::string& name, const std::string& value);
  void write(const NamedMatrix& named);
  /// See hessian_file.h.
  void write_hessian(const NamedHessian& hessian);
  void close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Reads a matrix file; everything that comes from the file is checked (Error{input} names file,
/// object and reason).
class MatrixReader {
 public:
  explicit MatrixReader(const std::filesystem::path& path);
  /// names() are those that are there, however many were written.
  static MatrixReader open_unchecked(const std::filesystem::path& path);
  ~MatrixReader();
  MatrixReader(MatrixReader&&) noexcept;
  MatrixReader& operator=(MatrixReader&&) noexcept;

  /// Names in the order in which they were written.
  const std::vector<std::string>& names() const;
  bool has(const std::string& name) const;
  NamedMatrix read(const std::string& name) const;
  /// Throws only for what has not the datasets and attributes that its scheme and shape ask for.
  UncheckedMatrix read_unchecked(const std::string& name) const;
  /// Reads every matrix and checks it, its checksum included.
  void verify() const;
  /// Scheme and shape without the data.
  std::pair<Scheme, std::pair<Index, Index>> describe(const std::string& name) const;
  /// How the inputs are rounded when the matrix is served, without the data.
  std::optional<Scheme> activation(const std::string& name) const;
  /// The JSON object in `stats` without the data.
  std::string stats(const std::string& name) const;
  std::string attribute(const std::string& name) const;  ///< empty when absent

 private:
  MatrixReader(const std::filesystem::path& path, bool counted);
  struct State;
  std::unique_ptr<State> state_;
};

/// Scheme as the JSON that the attribute `scheme` holds, both ways:
/// {"format":"int4","symmetric":true,"group_size":128,"scale_dtype":"bf16"}; floats have "element"
/// ("e2m1") after "format".
std::string scheme_to_json(const Scheme& scheme);
Scheme scheme_from_json(const std::string& text, const std::string& object);

/// HDF5 library version, e.g. "1.10.8".
std::string hdf5_version();

}  // namespace aq
