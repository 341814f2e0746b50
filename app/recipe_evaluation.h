// `trimtab eval RECIPE --model DIR --text FILE...`: a KV-precision recipe beside 16 bits, uniform widths, and the rules people use at the
// recipe's own bytes; the document is evaluation.h's. Episodes are pieces of text.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "domain/kv_recipe/kv_recipe.h"

namespace trimtab {

struct RecipeEvalRequest {
  KvRecipe recipe;
  std::string model;                // run or Hugging Face folder that it is for
  std::vector<std::string> texts;   // .txt or .jsonl
  std::string table;                // of `trimtab measure` on other text; "": the rules that need one are left out
  int64_t pieces = 0, threads = 0;  // 0: all; one per core
  uint64_t seed = 1;                // of the random mix
};

bool is_recipe(const std::string& name);   // FILE.json
nlohmann::json evaluate_recipe(const RecipeEvalRequest& request);

}  // namespace trimtab
