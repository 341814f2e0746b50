// Specs of agents as JSON; see spec_json.h.
#include "trainers/policy_gradient/spec_json.h"

namespace trimtab {
namespace {

nlohmann::json features_json(const std::vector<Feature>& features) {
  nlohmann::json out = nlohmann::json::array();
  for (const Feature& f : features)
    out.push_back({{"name", f.name}, {"unit", f.unit}, {"low", f.low}, {"high", f.high}});
  return out;
}

std::vector<Feature> features_from(const nlohmann::json& json) {
  std::vector<Feature> out;
  for (const nlohmann::json& f : json) {
    out.push_back({f.at("name").get<std::string>(), f.at("unit").get<std::string>(), f.at("low").get<float>(),
                   f.at("high").get<float>()});
  }
  return out;
}

}  // namespace

nlohmann::json to_json(const ObservationSpec& spec) {
  return {{"context", features_json(spec.context)},
          {"item", features_json(spec.item)},
          {"max_items", spec.max_items}};
}

nlohmann::json to_json(const AgentSpec& spec) {
  return {{"name", spec.name},
          {"observation", to_json(spec.observation)},
          {"head",
           {{"kind", static_cast<int>(spec.head.kind)},
            {"size", spec.head.size},
            {"low", spec.head.low},
            {"high", spec.head.high},
            {"picks", spec.head.picks}}}};
}

ObservationSpec observation_spec_from(const nlohmann::json& json) {
  return {.context = features_from(json.at("context")),
          .item = features_from(json.at("item")),
          .max_items = json.at("max_items").get<int>()};
}

AgentSpec agent_spec_from(const nlohmann::json& json) {
  const nlohmann::json& head = json.at("head");
  return {.name = json.at("name").get<std::string>(),
          .observation = observation_spec_from(json.at("observation")),
          .head = {.kind = static_cast<HeadKind>(head.at("kind").get<int>()),
                   .size = head.at("size").get<int>(),
                   .low = head.at("low").get<float>(),
                   .high = head.at("high").get<float>(),
                   .picks = head.value("picks", 1)}};  // files from before kOrder have none
}

}  // namespace trimtab
