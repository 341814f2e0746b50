#include "domain/tasks/prompts.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/filled_lines.h"

namespace trimtab {
namespace {

using nlohmann::json;

// One line of a prompts file: {"prompt": text}, {"question": text} or {"tokens": [ids]}; other keys are
// ignored, so that a file of problems can be used as it is.
class PromptReader {
 public:
  explicit PromptReader(std::string place) : place_(std::move(place)) {}

  PromptLine read(const std::string& line) const {
    const json object = json::parse(line, nullptr, false);
    if (!object.is_object())
      fail("not a JSON object; write {\"prompt\": \"...\"} or {\"tokens\": [1, 2, 3]}");
    const char* found = nullptr;
    for (const char* key : {"prompt", "question", "tokens"}) {
      if (!object.contains(key)) continue;
      if (found != nullptr) fail(fmt::format("has both '{}' and '{}'; keep one", found, key));
      found = key;
    }
    if (found == nullptr) fail("needs 'prompt', 'question' or 'tokens'");
    PromptLine out;
    out.place = place_;
    if (std::string_view(found) == "tokens") {
      out.tokens = ids_of(object["tokens"]);
    } else {
      out.text = text_of(object[found], found);
    }
    if (object.contains("category")) out.category = text_of(object["category"], "category");
    if (object.contains("adapter")) out.adapter = text_of(object["adapter"], "adapter");
    return out;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(fmt::format("{}: {}", place_, what));
  }
  std::string text_of(const json& value, const char* key) const {
    if (!value.is_string()) fail(fmt::format("'{}' must be text, got {}", key, value.type_name()));
    if (value.get<std::string>().empty()) fail(fmt::format("'{}' is empty; give some text", key));
    return value;
  }
  std::vector<int32_t> ids_of(const json& value) const {
    if (!value.is_array() || value.empty()) fail("'tokens' must be a list of ids with one or more in it");
    std::vector<int32_t> out;
    for (const json& id : value) {
      if (!id.is_number_integer() || id < 0 || id > INT32_MAX)
        fail(fmt::format("'tokens' holds {}, which is no id", id.dump()));
      out.push_back(id);
    }
    return out;
  }
  std::string place_;
};

}  // namespace

std::vector<PromptLine> read_prompts(const std::string& file) {
  std::vector<PromptLine> out;
  filled_lines(file, read_file(file), [&](std::string place, const std::string& line) { out.push_back(PromptReader(std::move(place)).read(line)); });
  if (out.empty())
    throw DataError(
        fmt::format("{}: no prompts in it; one JSON object per line, such as {{\"prompt\": "
                    "\"2+2=\"}} or {{\"tokens\": [1, 2, 3]}}",
                    file));
  return out;
}

}  // namespace trimtab
