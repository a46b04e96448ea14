#include "verify/collect.h"

#include <algorithm>

#include "aq/core/bytes.h"
#include "aq/core/json.h"
#include "aq/io/read_error.h"

namespace aq {

void Collector::item(std::string_view file, std::string_view object,
                     const std::function<void()>& work) {
  if (items_++ % comm_.size() != comm_.rank()) return;
  try {
    work();
  } catch (const ReadError&) {
    throw;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::input) throw;
    find("unreadable", file, object, error.what());
  } catch (const Json::exception& error) {
    find("unreadable", file, object, error.what());
  }
}

void Collector::find(std::string_view kind, std::string_view file, std::string_view object,
                     std::string_view text) {
  found_.push_back(
      {items_, {std::string(kind), std::string(file), std::string(object), std::string(text)}});
}

void Collector::gather(VerifyReport& report) {
  ByteWriter mine;
  for (const auto& [number, finding] : found_) {
    mine.value(number);
    for (const std::string* text : {&finding.kind, &finding.file, &finding.object, &finding.text})
      mine.text(*text);
  }
  found_.clear();
  std::vector<std::pair<Index, Finding>> all;
  for (const std::vector<std::byte>& bytes : comm_.all_gather(mine.take()))
    for (ByteReader in(bytes); !in.at_end();) {
      auto& [number, finding] = all.emplace_back();
      number = in.value<Index>();
      for (std::string* text : {&finding.kind, &finding.file, &finding.object, &finding.text})
        *text = in.text();
    }
  std::ranges::stable_sort(all, {}, [](const auto& entry) { return entry.first; });
  for (auto& entry : all) report.findings.push_back(std::move(entry.second));
  std::int64_t counts[] = {matrices_, unlogged_, tensors_, bytes_};
  comm_.all_reduce_sum(counts);
  report.matrices += counts[0];
  report.unlogged += counts[1];
  report.tensors += counts[2];
  report.bytes += counts[3];
  matrices_ = unlogged_ = tensors_ = bytes_ = 0;
}

}  // namespace aq
