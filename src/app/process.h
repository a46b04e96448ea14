#pragma once
/// What the program settles with the system before its work and after it.

namespace aq::app {

/// Makes errors of what would end the process silently or harm its files: writing beyond the limit
/// of a file's size (SIGXFSZ) and to a pipe that nobody reads any more (SIGPIPE) fail; files never
/// get the number of a standard stream that the caller closed; as many files may be open as the
/// hard limit allows.
void prepare_process();
/// Throws Error{input} when something that was printed did not arrive, on a full disk for instance.
void check_standard_output();

}  // namespace aq::app
