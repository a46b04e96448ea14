#include "aq/io/token_probe.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <system_error>

#include "aq/core/error.h"
#include "aq/io/tokens.h"

namespace aq {
namespace {

constexpr const char* kOperation = "read the tokens";
constexpr rlim_t kSeconds = 60;  // of the processor, so that a slow disk does not count

/// A crash ends the process by its signal, whoever handles signals in the parent, and silently.
void prepare_to_crash() {
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGXCPU})
    std::signal(signal, SIG_DFL);
  const rlimit no_core{0, 0}, time{kSeconds, kSeconds};
  setrlimit(RLIMIT_CORE, &no_core);
  setrlimit(RLIMIT_CPU, &time);
  const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  for (const int descriptor : {STDOUT_FILENO, STDERR_FILENO}) ::dup2(nowhere, descriptor);
}

/// Everything that a run does with the file.
void read_all(const std::filesystem::path& path, Index rows, Index length) {
  try {
    TokenFile::is_one(path);
    const TokenFile file = TokenFile::open(path);
    file.fingerprint(rows > 0 ? std::min(rows, file.sequences) : file.sequences,
                     length > 0 ? length : file.length);
  } catch (const std::exception&) {  // the parent will meet it too
  }
}

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& what) {
  throw Error(ErrorKind::input, kOperation, path.string(),
              str("the HDF5 library ", what, " it: the file is damaged"),
              "write it again with tools/prepare_calibration.py");
}

}  // namespace

void probe_token_file(const std::filesystem::path& path, Index rows, Index length) {
  const pid_t child = ::fork();
  if (child == 0) {
    prepare_to_crash();
    read_all(path, rows, length);
    ::_exit(0);
  }
  if (child < 0)
    throw Error(ErrorKind::internal, kOperation, path.string(),
                str("no process to try it in: ", std::generic_category().message(errno)));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return;  // somebody else took the answer
  if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL))
    refuse(path, "takes too much time or memory to read");
  if (status != 0) refuse(path, "crashes on");  // a sanitizer turns signals into exit codes
}

}  // namespace aq
