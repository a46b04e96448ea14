#include "aq/io/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <thread>

#include "aq/io/matrix_file.h"
#include "expect_error.h"
#include "io/output_place.h"
#include "support/file_size_limit.h"
#include "support/temporary_directory.h"

namespace aq {
namespace {

using test::expect_input_error;
using test::FileSizeLimit;
using test::TemporaryDirectory;

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

TEST(File, ADirectoryIsNotReplaced) {
  const TemporaryDirectory directory;
  std::filesystem::create_directories(directory / "taken/inside");
  std::filesystem::create_directory_symlink("taken", directory / "link");
  for (const char* name : {"taken", "link"}) {
    expect_input_error([&] { write_text_file(directory / name, "x"); }, {name, "Is a directory"});
    expect_input_error([&] { MatrixWriter writer(directory / name); }, {name, "Is a directory"});
    EXPECT_FALSE(std::filesystem::exists(directory / str(name, ".partial")));
  }
  EXPECT_TRUE(std::filesystem::exists(directory / "link/inside"));
}

TEST(File, LinksStayAndTheirTargetIsReplaced) {
  const TemporaryDirectory directory;
  const auto end = directory / "below/file";
  make_directory(directory / "below");
  std::filesystem::create_symlink("below/file", directory / "relative");
  std::filesystem::create_symlink(directory / "relative", directory / "absolute");
  std::filesystem::create_directory_symlink("below", directory / "folder");
  for (const char* name : {"absolute", "relative", "folder/file"}) {
    for (const bool there : {false, true}) {  // a link that leads nowhere, and one to a file
      if (!there) std::filesystem::remove(end);
      write_text_file(directory / name, str(name, there));
      EXPECT_EQ(read_text_file(end), str(name, there));
    }
    MatrixWriter(directory / name).close();
    EXPECT_TRUE(MatrixReader(end).names().empty()) << name;
  }
  for (const char* link : {"relative", "absolute", "folder"})
    EXPECT_TRUE(std::filesystem::is_symlink(directory / link)) << link;
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory / "below"), {}), 1);
  std::filesystem::create_symlink("circle", directory / "circle");
  expect_input_error([&] { write_text_file(directory / "circle", "x"); },
                     {"circle", "symbolic links"});
}

TEST(File, APipeIsWrittenStraight) {
  const TemporaryDirectory directory;
  const auto pipe = directory / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::string arrived;
  std::thread reader([&] { arrived = read_text_file(pipe); });  // opens before or after the writer
  const std::string text(200'000, 'x');                         // more than a pipe holds
  write_text_file(pipe, text);
  reader.join();
  EXPECT_EQ(arrived, text);
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  expect_input_error([&] { MatrixWriter writer(pipe); }, {"pipe", "no regular file"});
  const OutputPlace place = find_output(pipe);
  expect_input_error([&] { ::close(open_in_place(place, 0.1)); }, {"pipe", "no process reads"});
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory.path()), {}), 1);
}

TEST(File, ADescriptorOfTheProcessGoesOnWhereItIs) {
  const TemporaryDirectory directory;
  const auto path = directory / "a.txt";
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_EQ(::write(file, "before\n", 7), 7);
  for (const char* folder : {"/proc/self/fd", "/dev/fd"})
    write_text_file(std::filesystem::path(folder) / str(file), "text\n");
  ASSERT_EQ(::write(file, "after\n", 6), 6);
  ::close(file);
  EXPECT_EQ(read_text_file(path), "before\ntext\ntext\nafter\n");
  expect_input_error([&] { write_text_file(str("/dev/fd/", file), "x"); }, {"Bad file descriptor"});
}

TEST(File, ADeviceIsWrittenStraight) {  // a node of its own: that of the system is in use
  const TemporaryDirectory directory;
  for (const auto& [name, number] : {std::pair("null", 3), std::pair("full", 7)}) {
    const auto device = directory / name;
    if (::mknod(device.c_str(), S_IFCHR | 0600, ::makedev(1, static_cast<unsigned>(number))) != 0)
      GTEST_SKIP() << "no right to make a device";
    const int probe = ::open(device.c_str(), O_WRONLY);
    if (probe < 0) GTEST_SKIP() << "devices cannot be used in " << directory.path();
    ::close(probe);
  }
  write_text_file(directory / "null", "x");
  expect_input_error([&] { write_text_file(directory / "full", "x"); }, {"full", "No space left"});
  expect_input_error([&] { MatrixWriter writer(directory / "null"); }, {"null", "no regular file"});
  for (const char* name : {"null", "full"})
    EXPECT_TRUE(std::filesystem::is_character_file(directory / name));
}

TEST(File, LimitsOfTheSystemComeWithARemedy) {
  const TemporaryDirectory directory;
  {
    const FileSizeLimit limit(1000);
    expect_input_error([&] { write_text_file(directory / "a", std::string(5000, 'x')); },
                       {"File too large", "ulimit -f"});
  }
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const rlimit none{0, before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &none);
  expect_input_error([&] { write_text_file(directory / "a", "x"); },
                     {"Too many open files", "ulimit -n"});
  ::setrlimit(RLIMIT_NOFILE, &before);
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
