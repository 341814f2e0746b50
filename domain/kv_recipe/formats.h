// KV-precision recipes in the formats of other programs, both ways.
//
// What these formats say is the width of every layer (KVTuner: of every KV head too; ik_llama.cpp: also the rotations). The quantiser
// behind a width is the consumer's own (FP8 or int8 at 8 bits, NVFP4 or int4 at 4), and model, sinks and tail are not in them; so
// reading takes a recipe that supplies the rest. Widths survive the way there and back exactly, or writing is refused with what the
// format cannot say and what to do. A new format is one pair of functions and one entry of the table in formats.cpp.
#pragma once

#include <string>
#include <vector>

#include "domain/kv_recipe/kv_recipe.h"

namespace trimtab {

struct KvRecipeFormat {
  std::string name, doc;
  std::string use;   // how the consumer is given it; FILE is the file written, TEXT what is in it
  std::string (*write)(const KvRecipe& recipe);
  KvRecipe (*read)(const std::string& text, const std::string& file, const KvRecipe& rest);
};

const std::vector<KvRecipeFormat>& kv_recipe_formats();
const KvRecipeFormat& kv_recipe_format(const std::string& name);   // ConfigError naming the nearest

// DataError when the recipe is faulty or the format cannot represent it.
std::string write_kv_format(const std::string& format, const KvRecipe& recipe);
// All but the bits (and ik_llama's rotations) is that of `rest`, whose own bits do not matter; its measured facts stay only where the
// bits turn out the same. DataError "FILE: ..." on anything malformed and on layers that are missing or too many. At most 512 KiB.
KvRecipe read_kv_format(const std::string& format, const std::string& text, const std::string& file, const KvRecipe& rest);

}  // namespace trimtab
