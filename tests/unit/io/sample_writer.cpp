/// Writes DIRECTORY/sample.h5 with one matrix of every scheme, and beside it what an independent
/// reader must find: sample.f32 (all values, one matrix after the other) and sample.txt (names).
/// The values are computed here from the codes before they were packed.

#include <cstring>
#include <iostream>

#include "aq/io/file.h"
#include "aq/io/hessian_file.h"
#include "aq/io/matrix_file.h"
#include "random_matrix.h"

namespace aq {
namespace {

/// (code - zero) * scale of every element; floats: element * scale.
std::string expected_values(const QuantizedMatrix& m, const std::vector<std::uint8_t>& codes) {
  std::string bytes;
  const Index groups = group_count(m.scheme, m.columns);
  for (Index row = 0; row < m.rows; ++row)
    for (Index column = 0; column < m.columns; ++column) {
      const Index group = m.scheme.group_size > 0 ? column / m.scheme.group_size : 0;
      const auto at =
          static_cast<std::size_t>(m.scheme.group_size == kPerTensor ? 0 : row * groups + group);
      const int zero = m.scheme.symmetric ? 1 << (m.scheme.bits - 1) : m.zeros[at];
      const int code = codes[row * m.columns + column];
      const float level = m.scheme.is_float()
                              ? element_value(m.scheme.element, static_cast<std::uint8_t>(code))
                              : static_cast<float>(code - zero);
      const float value = level * m.scales[at];
      bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
  return bytes;
}

void write_sample(const std::filesystem::path& directory) {
  std::mt19937_64 random(7);
  std::vector<std::uint8_t> codes;
  std::string values, names;
  MatrixWriter writer(directory / "sample.h5");
  writer.set_attribute("model", "sample");
  int number = 0;
  for (const Scheme& scheme : test::all_schemes()) {
    const Index columns = 33 + static_cast<Index>(random() % 40);
    const std::string name = str("model.layers.", (number++ * 37) % 1000, ".down_proj");
    const QuantizedMatrix matrix = test::random_matrix(scheme, 6, columns, random, codes);
    writer.write({name, matrix, R"({"method":"gptq","error":0.25})"});
    values += expected_values(matrix, codes);
    names += name + "\n";
  }
  writer.write_hessian({"model.h", {"model.h", "model.other"}, {1, 2, 3}, 0.5, 7});
  writer.close();
  write_text_file(directory / "sample.f32", values);
  write_text_file(directory / "sample.txt", names);
}

}  // namespace
}  // namespace aq

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: io_sample_writer DIRECTORY\n";
    return 2;
  }
  aq::write_sample(argv[1]);
}
