#include "aq/report/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "aq/core/text.h"

namespace aq {
namespace {

constexpr Index kBarWidth = 24;

std::size_t terminal_width() {
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

}  // namespace

Progress::Progress(Index steps, bool quiet)
    : steps_(steps), quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1) {}

double Progress::remaining(Index done) const {
  if (done <= skipped_) return 0;
  const double a_step = (watch_.seconds() - skipped_at_) / static_cast<double>(done - skipped_);
  return a_step * static_cast<double>(steps_ - done);
}

void Progress::skip(Index done) {
  skipped_ = done;
  skipped_at_ = watch_.seconds();
}

void Progress::at(Index done, const std::string& what) {
  done_ = done;
  what_ = what;
  if (!quiet_ && terminal_) draw();
}

void Progress::step(const std::string& text, bool worth_a_look) {
  if (quiet_ || (terminal_ && !worth_a_look)) return;
  if (terminal_) erase();
  std::fprintf(stderr, "%s\n", text.c_str());
  if (terminal_ && done_ < steps_) draw();
}

void Progress::finish() {
  done_ = steps_;
  if (!quiet_ && terminal_) erase();
}

void Progress::draw() const {
  const Index filled = steps_ > 0 ? done_ * kBarWidth / steps_ : kBarWidth;
  const double left = remaining(done_);
  const std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
  std::string text = str("[", bar, "] ", left > 0 ? duration_text(left) + " left  " : "", what_);
  text.resize(std::min(text.size(), terminal_width() - 1));  // a line that wraps cannot be erased
  std::fprintf(stderr, "\r\033[K%s", text.c_str());
  std::fflush(stderr);
}

void Progress::erase() const {
  std::fprintf(stderr, "\r\033[K");
  std::fflush(stderr);
}

}  // namespace aq
