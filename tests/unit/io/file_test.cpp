#include "aq/io/file.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>

#include "aq/io/matrix_file.h"
#include "expect_error.h"
#include "support/temporary_directory.h"

namespace aq {
namespace {

using test::expect_input_error;
using test::TemporaryDirectory;

/// Files of this process cannot grow beyond `bytes`: stands for a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : signal_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, signal_);
  }

 private:
  rlimit before_{};
  void (*signal_)(int);
};

/// Root may do everything: its rights are given up while this lives.
class OrdinaryUser {
 public:
  OrdinaryUser() : before_(::geteuid()) {
    if (before_ == 0 && ::seteuid(65534) != 0) throw std::runtime_error("seteuid");
  }
  ~OrdinaryUser() {
    if (::seteuid(before_) != 0) std::abort();
  }

 private:
  uid_t before_;
};

TEST(File, WritesAndReadsBack) {
  const TemporaryDirectory directory;
  const auto path = directory / "a.json";
  const std::string text("one\0two\n", 8);
  write_text_file(path, "an older and longer text");
  write_text_file(path, text);
  EXPECT_EQ(read_text_file(path), text);
  EXPECT_FALSE(std::filesystem::exists(directory / "a.json.partial"));
  write_text_file(path, "");
  EXPECT_EQ(read_text_file(path), "");
}

TEST(File, ErrorsNameThePathAndTheReason) {
  const TemporaryDirectory directory;
  const auto missing = directory / "missing";
  expect_input_error([&] { read_text_file(missing); }, {missing.string(), "No such file"});
  expect_input_error([&] { read_text_file(directory.path()); },
                     {directory.path().string(), "Is a directory"});
  const auto nowhere = directory / "none/a.txt";
  expect_input_error([&] { write_text_file(nowhere, "x"); }, {nowhere.string(), "No such file"});
  write_text_file(directory / "long", "12345");
  EXPECT_EQ(read_text_file(directory / "long", 5), "12345");
  expect_input_error([&] { read_text_file(directory / "long", 4); }, {"long", "limit of 4 bytes"});
}

TEST(File, AFullDiskLeavesTheOldFile) {
  const TemporaryDirectory directory;
  const auto path = directory / "a.txt";
  write_text_file(path, "old");
  {
    const FileSizeLimit limit(1000);
    expect_input_error([&] { write_text_file(path, std::string(5000, 'x')); },
                       {path.string() + ".partial", "File too large"});
  }
  EXPECT_EQ(read_text_file(path), "old");
  EXPECT_FALSE(std::filesystem::exists(directory / "a.txt.partial"));
}

TEST(File, RenamingOverADirectoryFails) {
  const TemporaryDirectory directory;
  std::filesystem::create_directories(directory / "taken/inside");
  expect_input_error([&] { write_text_file(directory / "taken", "x"); }, {"rename to", "taken"});
  EXPECT_FALSE(std::filesystem::exists(directory / "taken.partial"));
}

TEST(File, MakesDirectories) {
  const TemporaryDirectory directory;
  make_directory(directory / "a/b/c");
  make_directory(directory / "a/b/c");
  EXPECT_TRUE(std::filesystem::is_directory(directory / "a/b/c"));
  write_text_file(directory / "file", "");
  expect_input_error([&] { make_directory(directory / "file"); }, {(directory / "file").string()});
  expect_input_error([&] { make_directory(directory / "file/below"); },
                     {"below", "ot a directory"});
}

TEST(File, PermissionsAreReported) {
  const TemporaryDirectory directory;
  write_text_file(directory / "secret", "x");
  std::filesystem::permissions(directory / "secret", std::filesystem::perms::none);
  std::filesystem::permissions(directory.path(), std::filesystem::perms(0555));
  const OrdinaryUser user;
  const std::string denied = "Permission denied";
  const std::string name = directory.path().string();
  expect_input_error([&] { write_text_file(directory / "a", "x"); }, {name + "/a", denied});
  expect_input_error([&] { make_directory(directory.path()); }, {name, denied});
  expect_input_error([&] { make_directory(directory / "a"); }, {name + "/a", denied});
  expect_input_error([&] { MatrixWriter writer(directory / "a.h5"); }, {name + "/a.h5", denied});
  expect_input_error([&] { read_text_file(directory / "secret"); }, {name + "/secret", denied});
  expect_input_error([&] { MatrixReader(directory / "secret"); }, {name + "/secret", denied});
}

TEST(File, AFullDiskFailsAMatrixFile) {
  const TemporaryDirectory directory;
  const auto path = directory / "model.h5";
  const Scheme scheme{.bits = 8, .group_size = kPerChannel};
  NamedMatrix named{"a", make_quantized(scheme, 256, 1024), "{}"};
  for (float& scale : named.matrix.scales) scale = 1;
  const auto write_all = [&] {
    MatrixWriter writer(path);
    for (int i = 0; i < 4; ++i) {
      named.name = str("m", i);
      writer.write(named);
    }
    writer.close();
  };
  for (const rlim_t limit : {100u, 100'000u, 900'000u}) {
    const FileSizeLimit full(limit);
    expect_input_error(write_all, {path.string() + ".partial", "File too large"});
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_FALSE(std::filesystem::exists(path.string() + ".partial"));
  }
  write_all();  // the library works on after the failures
  EXPECT_EQ(MatrixReader(path).names().size(), 4u);
}

TEST(File, HashesAreFnv1a) {  // vectors of the reference: http://www.isthe.com/chongo/tech/comp/fnv
  EXPECT_EQ(hash_text(hash_bytes("")), "cbf29ce484222325");
  EXPECT_EQ(hash_text(hash_bytes("a")), "af63dc4c8601ec8c");
  EXPECT_EQ(hash_text(hash_bytes("foobar")), "85944171f73967e8");
  EXPECT_EQ(hash_bytes("bar", hash_bytes("foo")), hash_bytes("foobar"));
}

TEST(FreeSpace, TooLittleNamesDirectoryAndSizes) {
  const TemporaryDirectory directory;
  EXPECT_NO_THROW(check_free_space(directory.path(), 1));
  EXPECT_NO_THROW(check_free_space(directory / "not/yet/made", 1));
  expect_input_error([&] { check_free_space(directory / "not/yet/made", Index{1} << 60); },
                     {(directory / "not/yet/made").string(), "are needed", "are free"});
}

TEST(FreeSpace, BytesOfADirectory) {
  const TemporaryDirectory directory;
  EXPECT_EQ(bytes_below(directory / "none"), 0);
  make_directory(directory / "a/b");
  write_text_file(directory / "a/b/c", "123");
  write_text_file(directory / "d", "4567");
  EXPECT_EQ(bytes_below(directory.path()), 7);
}

}  // namespace
}  // namespace aq
