// JSON documents as this program writes them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace trimtab {

// One line per top-level key, one line per element of a top-level list: readable, and small differences stay
// small.
std::string document_text(const nlohmann::json& document);

}  // namespace trimtab
