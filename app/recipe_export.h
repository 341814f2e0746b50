// A trained run of kv_precision's mode layers as a KV-precision recipe, and as the files of other programs.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "domain/kv_recipe/kv_recipe.h"

namespace trimtab {

struct RecipeExportRequest {
  std::string run, checkpoint = "best";
  std::string table;     // of `trimtab measure`, on the model the recipe is for; "": the one the run was trained on
  double bits = 0;       // per number of packed pages, scales included; 0 is refused: there is no sensible default
};

// ConfigError: also for a run of another environment or mode, and a budget outside what was trained.
KvRecipe recipe_of_run(const RecipeExportRequest& request);

std::vector<std::string> recipe_forms();   // "recipe" and the names of kv_recipe_formats()
// Writes FOLDER/recipe.json or FOLDER/recipe.FORM and says how the consumer is given it.
void write_recipe_form(const KvRecipe& recipe, const std::string& form, const std::filesystem::path& folder);

}  // namespace trimtab
