/// Files that cannot be read now are told from files that hold something wrong.

#include "aq/io/read_error.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "aq/io/file.h"
#include "aq/io/matrix_file.h"
#include "expect_error.h"
#include "io/hdf5.h"
#include "support/temporary_directory.h"

namespace {

std::atomic<int> errno_of_reads = 0;  // 0: they succeed

}  // namespace

/// In the place of the C library's, also for the HDF5 library: a disk or a server that fails.
extern "C" ssize_t pread(int file, void* out, size_t bytes, off_t offset) {
  using Function = ssize_t (*)(int, void*, size_t, off_t);
  static const auto real = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "pread"));
  if (errno_of_reads == 0) return real(file, out, bytes, offset);
  errno = errno_of_reads;
  return -1;
}

namespace aq {
namespace {

using testing::HasSubstr;

class FailingReads {
 public:
  explicit FailingReads(int error) { errno_of_reads = error; }
  ~FailingReads() { errno_of_reads = 0; }
};

/// No further file can be opened (EMFILE).
class NoMoreFiles {
 public:
  NoMoreFiles() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const int next = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::close(next);
    const rlimit limit{static_cast<rlim_t>(next), before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  ~NoMoreFiles() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

/// Text of the ReadError that `call` throws.
template <class Call>
std::string read_error(const Call& call) {
  try {
    call();
  } catch (const ReadError& error) {
    return error.what();
  } catch (const Error& error) {
    return str("another error: ", error.what());
  }
  return "no error";
}

class ReadErrorTest : public testing::Test {
 protected:
  ReadErrorTest() {
    NamedMatrix matrix{"w", make_quantized(Scheme{}, 64, 64), "{}", {}};
    for (float& scale : matrix.matrix.scales) scale = 1;
    MatrixWriter writer(file_);
    writer.write(matrix);
    writer.close();
  }

  test::TemporaryDirectory directory_;
  std::filesystem::path file_ = directory_ / "m.h5";
};

TEST_F(ReadErrorTest, NamesFileAndErrno) {
  EXPECT_THAT(read_error([] { read_text_file("/proc/self/mem"); }),
              AllOf(HasSubstr("/proc/self/mem"), HasSubstr("(errno 5)")));
  const NoMoreFiles limit;
  const auto emfile = AllOf(HasSubstr(file_.string()), HasSubstr("(errno 24)"));
  EXPECT_THAT(read_error([&] { read_text_file(file_); }), emfile);
  EXPECT_THAT(read_error([&] { MatrixReader reader(file_); }), emfile);
  EXPECT_THAT(read_error([&] { hdf5::open_file(file_); }), emfile);
}

TEST_F(ReadErrorTest, IsWhatTheHdf5LibraryMeets) {
  const MatrixReader reader(file_);
  const std::filesystem::path other = directory_ / "other.h5";  // not one that is open already
  std::filesystem::copy(file_, other);
  for (const int number : {EIO, ESTALE, ETIMEDOUT, EACCES, ENOMEM}) {
    const FailingReads failing(number);
    const auto names = [&](const std::filesystem::path& file) {
      return AllOf(HasSubstr(file.string()), HasSubstr(str("(errno ", number, ")")));
    };
    EXPECT_THAT(read_error([&] { reader.verify(); }), names(file_));
    EXPECT_THAT(read_error([&] { MatrixReader again(other); }), names(other));
  }
  EXPECT_NO_THROW(reader.verify());
  EXPECT_NO_THROW(MatrixReader(other).verify());
}

TEST_F(ReadErrorTest, IsNotWhatIsMissingOrSomethingElse) {
  for (const std::filesystem::path& path :
       {directory_ / "none", directory_.path(), file_ / "below a file"})
    EXPECT_THAT(read_error([&] { read_text_file(path); }), HasSubstr("another error"));
  EXPECT_TRUE(file_exists(file_));
  EXPECT_FALSE(file_exists(directory_ / "none"));
  EXPECT_FALSE(file_exists(file_ / "below a file"));
}

TEST_F(ReadErrorTest, IsTriedAgainForAWhile) {
  constexpr Patience kShort{.pause = 0.001, .longest = 0.004};
  int tries = 0;
  const auto read = [&](int failures) {
    return read_patiently(
        [&] {
          if (tries++ < failures) throw ReadError("read", "m.h5", "it hides");
          return tries;
        },
        kShort);
  };
  EXPECT_EQ(read(0), 1);
  tries = 0;
  EXPECT_EQ(read(3), 4);
  tries = 0;
  EXPECT_THAT(read_error([&] { read(4); }), HasSubstr("m.h5: it hides"));
  EXPECT_EQ(tries, 4);
  tries = 0;
  EXPECT_THROW(
      read_patiently([&] { throw Error(ErrorKind::input, "read", "m.h5", str(++tries)); }, kShort),
      Error);
  EXPECT_EQ(tries, 1);
}

}  // namespace
}  // namespace aq
