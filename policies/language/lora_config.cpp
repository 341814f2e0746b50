// LoraConfig as PEFT's adapter_config.json says it. Apart from lora.cpp because it needs no LibTorch.
#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/json_shape.h"
#include "policies/language/lora.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;
constexpr uintmax_t kMostBytes = uintmax_t{1} << 20;
constexpr size_t kDeepest = 16, kMostValues = 65536;

// One adapter_config.json: typed access with errors that name file and key.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& folder) : file_(folder / "adapter_config.json") {
    if (!std::filesystem::exists(file_))
      throw DataError(fmt::format("{}: holds no adapter_config.json: give a folder that PEFT or a run with policy.lora wrote", folder.string()));
    // Before a byte is read: the file may be anything. Deep brackets would end the process where a value is shown.
    if (std::filesystem::file_size(file_) > kMostBytes) fail(fmt::format("has more than {} bytes; is it an adapter's configuration?", kMostBytes));
    const std::string text = read_file(file_);
    const JsonShape shape = json_shape(text);
    if (shape.depth > kDeepest || shape.values > kMostValues)
      fail(fmt::format("has {} levels of brackets and {} values; an adapter's configuration has at most {} and {}", shape.depth, shape.values, kDeepest,
                       kMostValues));
    json_ = Json::parse(text, nullptr, false);
    if (!json_.is_object()) fail("is no JSON object");
  }
  [[noreturn]] void fail(const std::string& why) const { throw DataError(fmt::format("{}: {}", file_.string(), why)); }
  const Json& json() const { return json_; }
  const Json& value(const char* key) const {
    static const Json kNull;
    const auto it = json_.find(key);
    return it == json_.end() ? kNull : *it;
  }
  bool flag(const char* key) const {
    const Json& x = value(key);
    if (!x.is_null() && !x.is_boolean()) fail(fmt::format("'{}' is {}, but it must be true or false", key, x.dump()));
    return x.is_boolean() && x.get<bool>();
  }
  double number(const char* key, double otherwise) const {
    const Json& x = value(key);
    if (x.is_null()) return otherwise;
    if (!x.is_number() || !std::isfinite(x.get<double>())) fail(fmt::format("'{}' is {}, but it must be a number", key, x.dump()));
    return x.get<double>();
  }

 private:
  std::filesystem::path file_;
  Json json_;
};

bool says_nothing(const Json& x) { return x.is_null() || x == false || ((x.is_structured() || x.is_string()) && (x.empty() || x == "")); }

// Keys that are read, and those that say where an adapter came from or set what is switched off elsewhere.
bool without_effect(const std::string& key) {
  static const std::set<std::string> kKeys = {
      "peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "base_model_name_or_path",
      "inference_mode", "init_lora_weights", "peft_version", "auto_mapping", "revision", "megatron_core", "qalora_group_size", "eva_config",
      "runtime_config"};
  return kKeys.contains(key);
}

void refuse_what_is_not_built(const Reader& r) {
  const auto only = [&](const char* key, const char* wanted) {
    const Json& x = r.value(key);
    if (!x.is_null() && x != wanted) r.fail(fmt::format("'{}' is {}, but only \"{}\" is built", key, x.dump(), wanted));
  };
  if (r.value("peft_type") != "LORA") r.fail(fmt::format("'peft_type' is {}, but only \"LORA\" is built", r.value("peft_type").dump()));
  only("task_type", "CAUSAL_LM");
  only("bias", "none");
  // Other starts (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change the base weights too, which the folder does not hold.
  const Json& start = r.value("init_lora_weights");
  if (!start.is_null() && !start.is_boolean() && start != "gaussian" && start != "eva" && start != "orthogonal")
    r.fail(fmt::format("'init_lora_weights' is {}, which changes the base model too: have PEFT convert the adapter "
                       "(save_pretrained with path_initial_model_for_weight_conversion)", start.dump()));
  if (r.number("lora_dropout", 0) != 0 && !r.flag("inference_mode"))
    r.fail(fmt::format("'lora_dropout' is {}, but dropout is not built: set it to 0, or 'inference_mode' to true for an adapter that is done",
                       r.number("lora_dropout", 0)));
  for (const auto& [key, value] : r.json().items()) {
    if (!without_effect(key) && !says_nothing(value))
      r.fail(fmt::format("'{}' is {}, which is not built: adapters are LoRA of one rank and alpha on the layers of target_modules", key, value.dump()));
  }
}

std::vector<std::string> read_targets(const Reader& r) {
  const Json& x = r.value("target_modules");
  bool names = x.is_array() && !x.empty();
  for (const Json& target : x) names = names && target.is_string() && !target.get<std::string>().empty();
  if (!names) r.fail(fmt::format("'target_modules' is {}, but it must be a list of layers' names", x.dump()));
  return x.get<std::vector<std::string>>();
}

}  // namespace

double LoraConfig::scale() const { return alpha / (rslora ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank)); }

LoraConfig LoraConfig::read(const std::filesystem::path& folder) {
  const Reader r(folder);
  refuse_what_is_not_built(r);
  LoraConfig out;
  const Json& rank = r.value("r");
  if (!rank.is_number_integer() || rank.get<int64_t>() < 1 || rank.get<int64_t>() > (1 << 20))
    r.fail(fmt::format("'r' is {}, but the rank must be a whole number from 1 on", rank.dump()));
  out.rank = rank.get<int64_t>();
  out.alpha = r.number("lora_alpha", 8);   // PEFT's default
  out.rslora = r.flag("use_rslora");
  out.targets = read_targets(r);
  if (r.value("base_model_name_or_path").is_string()) out.base_model = r.value("base_model_name_or_path").get<std::string>();
  return out;
}

std::string LoraConfig::json() const {
  Json out = {{"peft_type", "LORA"}, {"task_type", "CAUSAL_LM"}, {"r", rank}, {"lora_alpha", alpha}, {"lora_dropout", 0.0},
              {"use_rslora", rslora}, {"use_dora", false}, {"target_modules", targets}, {"bias", "none"}, {"fan_in_fan_out", false},
              {"modules_to_save", nullptr}, {"rank_pattern", Json::object()}, {"alpha_pattern", Json::object()}, {"inference_mode", true},
              {"init_lora_weights", true}, {"base_model_name_or_path", base_model.empty() ? Json() : Json(base_model)}};
  if (alpha == std::floor(alpha) && std::abs(alpha) < 1e15) out["lora_alpha"] = static_cast<int64_t>(alpha);   // PEFT declares an int
  return out.dump(2) + "\n";
}

}  // namespace trimtab
