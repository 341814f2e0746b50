#include "app/document.h"

namespace trimtab {

std::string document_text(const nlohmann::json& document) {
  std::string out = "{\n";
  bool first_key = true;
  for (const auto& [key, value] : document.items()) {
    out += first_key ? "" : ",\n";
    first_key = false;
    out += nlohmann::json(key).dump() + ": ";
    if (!value.is_array()) {
      out += value.dump();
      continue;
    }
    out += "[";
    for (size_t i = 0; i < value.size(); ++i) out += (i == 0 ? "\n  " : ",\n  ") + value[i].dump();
    out += value.empty() ? "]" : "\n]";
  }
  return out + "\n}\n";
}

}  // namespace trimtab
