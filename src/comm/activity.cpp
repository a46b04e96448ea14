#include "comm/activity.h"

#include <chrono>
#include <mutex>
#include <utility>

#include "aq/comm/watchdog.h"
#include "aq/core/error.h"

namespace aq {
namespace {

using Clock = std::chrono::steady_clock;
using Label = std::shared_ptr<const std::string>;

/// The one activity of this process. The mutex is held for moments only.
struct State {
  std::mutex mutex;
  const char* operation = nullptr;  ///< nothing is waited for
  int peer = kAllRanks;
  std::int64_t steps = 0;
  Clock::time_point since;   ///< of the operation under way
  Clock::duration waited{};  ///< in those before
  std::string place;
  Label label = std::make_shared<const std::string>();  ///< in force
  Label waits_under = label;                            ///< of the operation under way
};

State& state() {
  static State the_state;
  return the_state;
}

}  // namespace

std::string Activity::text() const {
  std::string text = place.empty() ? "start of the run" : place;
  if (!waiting) return text;
  if (!label.empty()) text += ": " + label;
  text += ": " + operation;
  return peer == kAllRanks ? text : str(text, " rank ", peer);
}

Activity current_activity() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const bool waiting = s.operation != nullptr;
  const Clock::duration waited = s.waited + (waiting ? Clock::now() - s.since : Clock::duration{});
  return {waiting,
          s.steps,
          std::chrono::duration<double>(waited).count(),
          waiting ? s.operation : "",
          s.peer,
          s.place,
          *s.waits_under};
}

Label current_label() {
  const std::lock_guard lock(state().mutex);
  return state().label;
}

Waiting::Waiting(const char* operation, int peer) : Waiting(operation, peer, current_label()) {}

Waiting::Waiting(const char* operation, int peer, Label label) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.operation = operation;
  s.since = Clock::now();
  s.peer = peer;
  s.waits_under = std::move(label);
  ++s.steps;
}

Waiting::~Waiting() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.operation = nullptr;
  s.waited += Clock::now() - s.since;
  ++s.steps;
}

void set_work_place(std::string place) {
  const std::lock_guard lock(state().mutex);
  state().place = std::move(place);
}

WorkLabel::WorkLabel(std::string label)
    : before_(std::make_shared<const std::string>(std::move(label))) {
  const std::lock_guard lock(state().mutex);
  before_.swap(state().label);
}

WorkLabel::~WorkLabel() {
  const std::lock_guard lock(state().mutex);
  before_.swap(state().label);
}

}  // namespace aq
