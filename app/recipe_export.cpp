#include "app/recipe_export.h"

#include <fmt/format.h>

#include "app/policy_agents.h"
#include "app/subject.h"
#include "core/config.h"
#include "core/files.h"
#include "domain/kv_recipe/formats.h"
#include "engine/kv_cache/kv_cache.h"
#include "envs/kv_precision/layers.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

std::string table_of(const RecipeExportRequest& request) {
  if (!request.table.empty()) return request.table;
  for (const TrainingFile& file : training_manifest(request.run))
    if (file.split == "train") return file.file;
  throw ConfigError(fmt::format("{}: does not say what it was trained on; name the model's sensitivities with --table", request.run));
}

KvLayersOptions options_of(const Config& config, const RecipeExportRequest& request) {
  if (config.text("env.type", "") != "kv_precision" || config.text("env.mode", "layers") != "layers")
    throw ConfigError(fmt::format("{}: a recipe comes from a run of kv_precision's mode layers; this run's policies are exported with --to ttc,header", request.run));
  KvLayersOptions options = kv_layers_options(config.at("env"));
  if (!(request.bits >= options.low_bits && request.bits <= options.high_bits))
    throw ConfigError(fmt::format("give the recipe's budget with --bits, per number of packed pages with their scales: {} was trained on {} to {}", request.run,
                                  options.low_bits, options.high_bits));
  return options;
}

KvRecipe recipe_of(const KvSensitivity& t, const KvAllocation& a, const std::string& table) {
  KvCacheOptions cache;
  Config::parse(measured_fact(t, "cache", table), table).read(cache);
  KvRecipe r;
  r.model = {measured_fact(t, "model_hash", table), t.layers, t.kv_heads, t.head_dim};
  r.quantiser = cache.quantiser(), r.page_tokens = cache.page_tokens, r.sinks = cache.sinks, r.tail = cache.page_tokens;
  r.hadamard_keys = cache.rotate_keys, r.hadamard_values = cache.rotate_values;
  r.created_by = "trimtab";
  for (const int pair : a) r.bits.push_back(t.pairs[pair]);
  return r;
}

}  // namespace

KvRecipe recipe_of_run(const RecipeExportRequest& request) {
  check_run_folder(request.run);
  const Config config = Config::load(fs::path(request.run) / "config.yaml");
  const KvLayersOptions options = options_of(config, request);
  const std::string table = table_of(request);
  const KvLayers env(options, open_sensitivities({table}));
  KvRecipe recipe = recipe_of(env.table(0), decide_widths(env, policy_agents(request.run, request.checkpoint), request.bits), table);
  recipe.name = fmt::format("{} at {} bits", fs::path(request.run).filename().string(), request.bits);
  check_recipe(recipe, table);
  return recipe;
}

std::vector<std::string> recipe_forms() {
  std::vector<std::string> out = {"recipe"};
  for (const KvRecipeFormat& format : kv_recipe_formats()) out.push_back(format.name);
  return out;
}

void write_recipe_form(const KvRecipe& recipe, const std::string& form, const fs::path& folder) {
  const fs::path file = folder / (form == "recipe" ? "recipe.json" : "recipe." + form);
  if (form == "recipe") {
    write_kv_recipe(recipe, file);
    fmt::print("Written: {}\n", file.string());
    return;
  }
  write_file_atomically(file, write_kv_format(form, recipe));
  fmt::print("Written: {}\n  {}\n", file.string(), kv_recipe_format(form).use);
}

}  // namespace trimtab
