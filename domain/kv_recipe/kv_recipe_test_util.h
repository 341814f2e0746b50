// Random recipes and what refusals say, for the tests of this folder.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "domain/kv_recipe/kv_recipe.h"

namespace trimtab {

inline std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const DataError& error) {
    return error.what();
  }
  return "no error";
}

inline const std::vector<KvBits>& all_kv_bits() {
  static const std::vector<KvBits> all = [] {
    std::vector<KvBits> out = {{0, 0}};
    for (const int key : {16, 8, 4, 2}) {
      for (const int value : {16, 8, 4, 2}) out.push_back({static_cast<uint8_t>(key), static_cast<uint8_t>(value)});
    }
    return out;
  }();
  return all;
}

inline KvRecipe random_recipe(Draws& draws) {
  const auto flip = [&] { return draws.below(2) == 1; };
  KvRecipe r;
  if (flip()) r.name = "K8V4 \"mix\" \\ \u00e9";
  if (flip()) r.created_by = "a test";
  r.model = {"00c0ffee" + std::string(draws.below(3) * 12, 'a'), 1 + draws.below(40), 1 + draws.below(4), 16 * (1 + draws.below(8))};
  r.quantiser = {.key_groups = flip() ? KeyGroups::kChannel : KeyGroups::kToken, .value_group = flip() ? 16 : 0, .symmetric = flip(), .key_norm = false,
                 .value_channel_scale = flip()};
  r.quantiser.key_norm = r.quantiser.key_groups == KeyGroups::kChannel && flip();
  r.page_tokens = 16 * (1 + draws.below(16));
  r.hadamard_keys = flip();
  r.hadamard_values = flip();
  r.sinks = draws.below(9);
  r.tail = draws.below(300);
  r.bits.resize(r.model.layers * (flip() ? r.model.kv_heads : 1));
  for (KvBits& bits : r.bits) bits = all_kv_bits()[draws.below(all_kv_bits().size())];
  if (flip()) r.bits_per_element = draws.uniform(0.0f, 16.0f);
  if (flip()) r.kl_to_16bit = 1.0 / (3 + draws.below(1000));
  return r;
}

}  // namespace trimtab
