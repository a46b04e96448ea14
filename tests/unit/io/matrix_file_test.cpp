#include "aq/io/matrix_file.h"

#include <set>
#include <thread>

#include "aq/core/hash.h"
#include "aq/io/file.h"
#include "aq/io/hessian_file.h"
#include "expect_error.h"
#include "io/hdf5.h"
#include "random_matrix.h"
#include "support/temporary_directory.h"

namespace aq {
namespace {

using test::TemporaryDirectory;

/// One matrix of every scheme, in an order that is not that of the names.
std::vector<NamedMatrix> all_matrices() {
  std::mt19937_64 random(1);
  std::vector<std::uint8_t> codes;
  std::vector<NamedMatrix> matrices;
  for (const Scheme& scheme : test::all_schemes()) {
    const Index columns = 40 + static_cast<Index>(random() % 30);
    const Index number = static_cast<Index>(matrices.size());
    matrices.push_back({str("model.layers.", (number * 37) % 1000, ".up_proj"),
                        test::random_matrix(scheme, 5, columns, random, codes),
                        str(R"({"method":"gptq","tokens":)", number, "}")});
  }
  return matrices;
}

void write_file(const std::filesystem::path& path, const std::vector<NamedMatrix>& matrices) {
  MatrixWriter writer(path);
  writer.set_attribute("model", "olmoe");
  for (const NamedMatrix& matrix : matrices) writer.write(matrix);
  writer.close();
}

TEST(MatrixFile, RoundTripOfEveryScheme) {
  const TemporaryDirectory directory;
  const std::vector<NamedMatrix> matrices = all_matrices();
  write_file(directory / "m.h5", matrices);
  const MatrixReader reader(directory / "m.h5");
  ASSERT_EQ(reader.names().size(), matrices.size());
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const NamedMatrix& wanted = matrices[i];
    EXPECT_EQ(reader.names()[i], wanted.name);  // order of writing
    EXPECT_TRUE(reader.has(wanted.name));
    const NamedMatrix found = reader.read(wanted.name);
    EXPECT_EQ(found.name, wanted.name);
    EXPECT_EQ(found.matrix, wanted.matrix) << to_string(wanted.matrix.scheme);
    EXPECT_EQ(found.stats_json, wanted.stats_json);
    const auto [scheme, shape] = reader.describe(wanted.name);
    EXPECT_EQ(scheme, wanted.matrix.scheme);
    EXPECT_EQ(shape, std::pair(wanted.matrix.rows, wanted.matrix.columns));
  }
  EXPECT_EQ(reader.attribute("model"), "olmoe");
  EXPECT_EQ(reader.attribute("none"), "");
  EXPECT_FALSE(reader.has("none"));
}

TEST(MatrixFile, EqualContentHasEqualBytes) {
  const TemporaryDirectory directory;
  write_file(directory / "first.h5", all_matrices());
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // another second
  write_file(directory / "another-name.h5", all_matrices());
  EXPECT_EQ(xxh64(read_text_file(directory / "first.h5")),
            xxh64(read_text_file(directory / "another-name.h5")));
}

TEST(MatrixFile, AppearsWhenClosed) {
  const TemporaryDirectory directory;
  const auto path = directory / "m.h5";
  const auto partial = directory / "m.h5.partial";
  {
    MatrixWriter writer(path);
    EXPECT_TRUE(std::filesystem::exists(partial));
  }
  EXPECT_FALSE(std::filesystem::exists(partial));
  MatrixWriter writer(path);
  EXPECT_FALSE(std::filesystem::exists(path));
  writer.close();
  EXPECT_TRUE(std::filesystem::exists(path));
  EXPECT_FALSE(std::filesystem::exists(partial));
  EXPECT_TRUE(MatrixReader(path).names().empty());
}

TEST(MatrixFile, AttributesMayBeReplacedAndLong) {
  const TemporaryDirectory directory;
  const std::string recipe(200'000, 'x');
  MatrixWriter writer(directory / "m.h5");
  writer.set_attribute("recipe", "short");
  writer.set_attribute("recipe", recipe);
  writer.set_attribute("empty", "");
  for (int i = 0; i < 20; ++i) writer.set_attribute(str("key", i), str(i));
  writer.close();
  const MatrixReader reader(directory / "m.h5");
  EXPECT_EQ(reader.attribute("recipe"), recipe);
  EXPECT_EQ(reader.attribute("empty"), "");
  EXPECT_EQ(reader.attribute("key19"), "19");
}

TEST(MatrixFile, RefusesWhatDoesNotFit) {
  const TemporaryDirectory directory;
  MatrixWriter writer(directory / "m.h5");
  const NamedMatrix good = all_matrices().back();
  const auto refused = [&](auto change) {
    NamedMatrix matrix = good;
    change(matrix);
    EXPECT_THROW(writer.write(matrix), Error);
  };
  refused([](NamedMatrix& m) { m.name = ""; });
  refused([](NamedMatrix& m) { m.name = "a/b"; });
  refused([](NamedMatrix& m) { m.name = "."; });
  refused([](NamedMatrix& m) { m.stats_json = "[]"; });
  refused([](NamedMatrix& m) { m.stats_json = "nonsense"; });
  refused([](NamedMatrix& m) { m.matrix.codes.pop_back(); });
  refused([](NamedMatrix& m) { m.matrix.scales.push_back(1); });
  refused([](NamedMatrix& m) { m.matrix.zeros.clear(); });
  refused([](NamedMatrix& m) { m.matrix.scales[0] = 0.1f; });  // no bf16
  writer.write(good);
  EXPECT_THROW(writer.write(good), Error);  // twice
}

TEST(MatrixFile, Hessians) {
  const TemporaryDirectory directory;
  MatrixWriter writer(directory / "m.h5");
  writer.write_hessian({"a.gate_proj", {"a.gate_proj", "a.up"}, {1, 2, 3}, 0.5, 7});
  writer.write_hessian({"b", {}, {4}, 2, 1});
  writer.close();
  const hdf5::Object file = hdf5::open_file(directory / "m.h5");
  const hdf5::Object hessians = hdf5::open_group(file, "hessians");
  EXPECT_EQ(hdf5::members(hessians), (std::vector<std::string>{"a.gate_proj", "b"}));
  const hdf5::Object group = hdf5::open_group(hessians, "a.gate_proj");
  std::vector<float> upper(3);
  hdf5::read_dataset(hdf5::open_dataset(group, "upper"), hdf5::Type::f32, upper.data());
  EXPECT_EQ(upper, (std::vector<float>{1, 2, 3}));
}

TEST(MatrixFile, ManyThreadsRead) {
  const TemporaryDirectory directory;
  const std::vector<NamedMatrix> matrices = all_matrices();
  write_file(directory / "m.h5", matrices);
  const MatrixReader reader(directory / "m.h5");
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (std::size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < matrices.size(); i += 2)
        wrong[t] += reader.read(matrices[i].name).matrix != matrices[i].matrix;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

TEST(SchemeJson, IsWhatTheDocumentationSays) {
  EXPECT_EQ(scheme_to_json({.bits = 4, .symmetric = true, .group_size = 128}),
            R"({"format":"int4","symmetric":true,"group_size":128,"scale_dtype":"bf16"})");
  for (const Scheme& scheme : test::all_schemes())
    EXPECT_EQ(scheme_from_json(scheme_to_json(scheme), "x"), scheme);
}

TEST(SchemeJson, Damaged) {
  const std::string good = scheme_to_json({});
  const auto with = [&](const char* from, const char* to) {
    std::string text = good;
    text.replace(text.find(from), std::string(from).size(), to);
    return text;
  };
  const std::vector<std::pair<std::string, std::string>> table = {
      {"nonsense", "not valid JSON"},
      {"[]", "not a JSON object"},
      {"{}", "'format' is missing"},
      {with("int4", "int9"), "'format' is 'int9', which is not known"},
      {with("\"int4\"", "4"), "'format' is 4, not a text"},
      {with("true", "1"), "'symmetric' is 1, not true or false"},
      {with("128", "1.5"), "'group_size' is 1.5, not a whole number"},
      {with("128", "-2"), "'group_size' is -2, not a whole number"},
      {with("128", "18446744073709551615"), "'group_size' is 18446744073709551615, not"},
      {with("bf16", "bf17"), "'scale_dtype' is \"bf17\", not a type of scales"},
      {with("symmetric", "simmetric"), "'symmetric'"},
      {with("\"symmetric\"", "\"format\""), "'format' appears twice"},
  };
  for (const auto& [text, expected] : table)
    test::expect_input_error([&, t = text] { scheme_from_json(t, "file: /a"); },
                             {"file: /a", expected});
}

}  // namespace
}  // namespace aq
