/// The input is a shard or a model.h5.

#include "aq/io/matrix_file.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace aq;
  static const fuzz::ScratchDirectory directory;
  const auto path = directory.write("shard.h5", fuzz::text_of(data, size));
  fuzz::expect_error_or_success([&] {
    const MatrixReader reader(path);
    reader.attribute("model");
    for (const std::string& name : reader.names()) {
      fuzz::expect_error_or_success([&] { reader.describe(name); });
      fuzz::expect_error_or_success([&] { reader.stats(name); });
      fuzz::expect_error_or_success([&] { reader.activation(name); });
      fuzz::expect_error_or_success([&] {
        const QuantizedMatrix matrix = reader.read(name).matrix;
        Matrix values(matrix.rows, matrix.columns);
        dequantize(matrix, values.view());
      });
    }
  });
  return 0;
}
