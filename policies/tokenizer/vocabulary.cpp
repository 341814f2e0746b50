#include "policies/tokenizer/vocabulary.h"

#include "core/error.h"

namespace trimtab {

bool Vocabulary::add(int32_t id, const std::string& token, std::string bytes, bool special) {
  TT_CHECK(id >= 0 && id <= kMaxId, "id {}", id);
  const std::optional<int32_t> known = find(token);
  if (known ? *known != id : entry(id) != nullptr) return false;
  if (id >= size()) entries_.resize(static_cast<size_t>(id) + 1);
  entries_[id] = {token, std::move(bytes), true, special};
  ids_[token] = id;
  return true;
}

std::optional<int32_t> Vocabulary::find(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional<int32_t>(found->second);
}

const Vocabulary::Entry* Vocabulary::entry(int32_t id) const {
  return id >= 0 && id < size() && entries_[id].present ? &entries_[id] : nullptr;
}

const std::string& Vocabulary::token(int32_t id) const {
  const Entry* found = entry(id);
  if (found == nullptr) throw DataError(fmt::format("the tokenizer has no token with id {}", id));
  return found->token;
}

std::string_view Vocabulary::bytes(int32_t id) const {
  const Entry* found = entry(id);
  return found == nullptr ? std::string_view() : std::string_view(found->bytes);
}

bool Vocabulary::is_special(int32_t id) const {
  const Entry* found = entry(id);
  return found != nullptr && found->special;
}

std::vector<int32_t> Vocabulary::special_ids() const {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < size(); ++id) {
    if (is_special(id)) ids.push_back(id);
  }
  return ids;
}

}  // namespace trimtab
