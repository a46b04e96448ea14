#include "aq/allocate/known_losses.h"

#include <utility>

#include "aq/core/json.h"
#include "aq/io/file.h"

namespace aq {

KnownLosses::KnownLosses(std::filesystem::path file, std::string identity, std::string_view text)
    : file_(std::move(file)), identity_(std::move(identity)) {
  if (text.empty()) return;
  const std::string name = file_.string();
  const JsonPlace place{ErrorKind::input, "read measured losses", name,
                        "remove the file to measure anew"};
  const Json json = parse_json(text, place);
  const JsonValue all{json, place};
  if (all.at("identity").text() != identity_) return;
  const JsonValue units = all.at("kl");
  for (const auto& [unit, value] : units.json.items()) {
    const JsonValue entry = units.at(unit);
    UnitLoss& loss = known_[unit];
    loss.mean = entry.at("mean").number();
    if (const auto error = entry.find("standard_error")) loss.standard_error = error->number();
  }
}

const UnitLoss* KnownLosses::find(const std::string& unit) const {
  const auto loss = known_.find(unit);
  return loss == known_.end() ? nullptr : &loss->second;
}

void KnownLosses::write() const {
  OrderedJson json{{"identity", identity_}, {"kl", OrderedJson::object()}};
  for (const auto& [unit, loss] : known_) {
    OrderedJson& entry = json["kl"][unit];
    entry["mean"] = loss.mean;
    if (loss.standard_error) entry["standard_error"] = *loss.standard_error;
  }
  write_text_file(file_, json.dump(1) + "\n");
}

}  // namespace aq
